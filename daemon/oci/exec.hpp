// ExecSync: `crun exec` with pipes, on an event loop of its own. No conmon, no file on a disk.
#pragma once

#include <unordered_map>

#include "daemon/oci/runtime_impl.hpp"

namespace userpod::oci {

class ExecLoop {
 public:
  // `leaf` is the cgroup that the runtime's own process is born in; the caller keeps it open.
  static Result<std::unique_ptr<ExecLoop>> start(const Paths& paths, const NodeInside& node, int leaf);
  ~ExecLoop();

  // Any thread. done runs on the loop.
  void exec(const Handler& handler, const ExecInput& input, std::function<void(Result<ExecResult>)> done);
  // Drops what is remembered of a container that is being removed. Any thread.
  void forget(const std::string& id);

 private:
  // What an exec takes over from the container's config.json.
  struct Template {
    std::string process;  // JSON, without args
    std::string cgroup;
    bool ofNode = false;  // it has the node's PID namespace
  };
  struct Session;
  using SessionPointer = std::shared_ptr<Session>;

  ExecLoop(const Paths& paths, const NodeInside& node, int leaf) : paths_(paths), node_(node), leaf_(leaf) {}
  Result<Template> readTemplate(const ExecInput& input);
  Status launch(const SessionPointer& session);
  static Status addCommand(const SessionPointer& session, const Template& pattern, SpawnOptions& options);
  Status prepareCgroup(const SessionPointer& session, const Template& pattern);
  Status watch(const SessionPointer& session);
  void read(const SessionPointer& session, UniqueFd& pipe, std::string& into);
  void ended(const SessionPointer& session);
  void timeOver(const SessionPointer& session);
  void finish(const SessionPointer& session);
  void fail(const SessionPointer& session, Error error);
  void release(const SessionPointer& session);

  const Paths& paths_;
  const NodeInside& node_;
  int leaf_;
  std::unordered_map<std::string, Template> templates_;  // by container id
  std::unordered_map<std::uint64_t, SessionPointer> sessions_;
  std::unique_ptr<EventLoop> loop_;
};

}  // namespace userpod::oci

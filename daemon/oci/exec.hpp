// Commands in running containers: `crun exec` with pipes or a terminal, on an event loop of its own. No conmon, no file
// on a disk.
#pragma once

#include <unordered_map>

#include "daemon/oci/runtime_impl.hpp"

namespace userpod::oci {

class ExecLoop {
 public:
  // `leaf` is the cgroup that the runtime's own process is born in; the caller keeps it open.
  static Result<std::unique_ptr<ExecLoop>> start(const Paths& paths, const NodeInside& node, int leaf);
  // Those under way get Canceled, and streaming ones are hung up.
  ~ExecLoop();

  // Any thread. done runs on the loop.
  void exec(const Handler& handler, const ExecInput& input, std::function<void(Result<ExecResult>)> done);
  // Any thread. Both run on the loop.
  void open(const Handler& handler, const ExecStart& input, std::function<void(Result<ExecStreams>)> started,
            std::function<void(Result<std::int32_t>)> ended);
  // Drops what is remembered of a container that is being removed. Any thread.
  void forget(const std::string& id);

 private:
  // What an exec takes over from the container's config.json.
  struct Template {
    std::string process;  // JSON, without args and terminal
    std::string cgroup;
    bool ofNode = false;  // it has the node's PID namespace
  };
  class Session;
  class SyncSession;  // exec_sync.cpp
  class OpenSession;  // exec_open.cpp
  using SessionPointer = std::shared_ptr<Session>;

  ExecLoop(const Paths& paths, const NodeInside& node, int leaf) : paths_(paths), node_(node), leaf_(leaf) {}
  void begin(SessionPointer session);
  Result<Template> readTemplate(const std::string& id, const std::string& bundle);

  const Paths& paths_;
  const NodeInside& node_;
  int leaf_;
  std::unordered_map<std::string, Template> templates_;  // by container id
  std::unordered_map<std::uint64_t, SessionPointer> sessions_;
  std::unique_ptr<EventLoop> loop_;
};

}  // namespace userpod::oci

// The parts of Runtime: one OCI runtime program per handler, conmon, and the execs under way.
#pragma once

#include <atomic>
#include <map>
#include <memory>
#include <mutex>
#include <vector>

#include "daemon/oci/oci.hpp"
#include "daemon/sys/child.hpp"

namespace userpod::oci {

// An OCI runtime program as it is called: the read-only bind mount, the arguments before the subcommand.
struct Handler {
  std::string name;
  std::string program;
  std::string flavour;  // first word of --version: crun, runc, ...
  std::string version;
  std::string stateRoot;
  bool recursiveReadOnly = false;  // the mount option "rro" works, in the runtime and in the kernel

  std::vector<std::string> command() const;  // program and global arguments, to be followed by a subcommand
};

// Binds a program read-only at `target`: what runs it cannot be made to write to its file. An upgrade of the program
// leaves the old file bound until the next start.
Status bindReadOnly(const std::string& program, const std::string& target);

// Finds the program, binds it read-only at <node>/bin/<name> and asks for its version.
Result<Handler> openHandler(const Paths& paths, const std::string& name, const std::string& configuredPath);

// The whole environment of conmon and the runtime: nothing of the daemon's own, above all no NOTIFY_SOCKET, which crun
// would act on.
std::vector<std::string> toolEnvironment(const Paths& paths);

// spawn() in a thread whose session keyring is not the user's: runtimes are told to make none per container, as a user
// has only 200, and the session keyring of the user may hold tickets and disk keys.
Result<Child> spawnTool(const SpawnOptions& options);

// Short-lived files of execs, below the node's directory.
std::string execDirectory(const Paths& paths);

// A line for conmon's control pipe. MonitorFailed: nobody is at its other end, conmon has ended.
Status tellMonitor(const std::string& bundle, const std::string& line);

class ExecLoop;

class RuntimeImpl final : public Runtime {
 public:
  RuntimeImpl(const Paths& paths, const NodeInside& node);
  ~RuntimeImpl() override;
  Status prepare(const Settings& settings);

  bool hasHandler(const std::string& handler) const override;
  bool recursiveReadOnly(const std::string& handler) const override;
  std::pair<std::string, std::string> version() const override;
  Result<PauseProcess> startPause(const PodRecord& pod, const network::PodNamespaces& namespaces) override;
  Result<CreatedProcess> create(const CreateInput& input) override;
  Status start(const std::string& id, const std::string& handler) override;
  bool started(const std::string& handler, pid_t pid) const override;
  Status remove(const std::string& id, const std::string& handler) override;
  std::vector<std::pair<std::string, std::string>> containers() const override;
  void exec(const ExecInput& input, std::function<void(Result<ExecResult>)> done) override;
  void openExec(const ExecStart& input, std::function<void(Result<ExecStreams>)> started,
                std::function<void(Result<std::int32_t>)> ended) override;

 private:
  Result<const Handler*> find(const std::string& handler) const;
  SpawnOptions inLeaf(const Handler& handler, std::vector<std::string> arguments) const;
  Status runTool(const Handler& handler, std::vector<std::string> arguments) const;
  Result<CreatedProcess> launchMonitor(const Handler& handler, const CreateInput& input) const;
  SpawnOptions monitorOptions(const Handler& handler, const CreateInput& input, int cgroup) const;

  const Paths paths_;
  const NodeInside& node_;
  std::string conmon_;
  std::string pause_;  // userpod-pause, bound read-only
  std::string defaultHandler_;
  std::map<std::string, Handler> handlers_;
  UniqueFd leaf_;                                     // cgroup of the short-lived runtime calls
  std::vector<std::unique_ptr<ExecLoop>> execLoops_;  // take turns: each waits while a process of its own is begun
  std::atomic<unsigned> nextLoop_ = 0;
};

}  // namespace userpod::oci

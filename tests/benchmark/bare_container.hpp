// The bare parts of containers: overlay mount, conmon, crun, signal and exit file; no daemon in between.
#pragma once

#include <condition_variable>
#include <memory>
#include <mutex>
#include <nlohmann/json.hpp>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "daemon/sys/child.hpp"
#include "userns/node.hpp"

namespace userpod::bench {

// What the product's own container is made of, to make the same one without it.
struct ContainerModel {
  nlohmann::json spec;                   // its OCI spec
  std::vector<std::string> lowerLayers;  // of its overlay, uppermost first
};

// Of a running container of the product: the lower layers of the overlay at the spec's root, from /proc/self/mountinfo.
Result<ContainerModel> modelOf(nlohmann::json spec);

struct ContainerTools {
  std::string crun;  // the read-only bind mount that the daemon uses
  std::string conmon;
};
Result<ContainerTools> findTools(const Paths& paths, const Settings& settings);

inline constexpr const char* kBareCgroup = "/bench";  // all cgroups of bare containers are below

// Tells of exit files when they are there: one inotify descriptor, of which a user has few, and one thread for all who
// wait.
class ExitWatch {
 public:
  static Result<std::unique_ptr<ExitWatch>> open(const std::string& directory);
  ~ExitWatch();
  // Until the file of that name is there; ten seconds at most. Any thread.
  Status wait(const std::string& name);

 private:
  ExitWatch(UniqueFd watch, UniqueFd wake);
  void run();

  UniqueFd watch_;
  UniqueFd wake_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::set<std::string> seen_;  // guarded by mutex_
  std::thread thread_;
};

struct BareContainer {
  unsigned number = 0;
  UniqueFd monitorCgroup;
  pid_t process = 0;
};

// In a process that stands in the node's namespaces but its network and cgroup ones, as the daemon does. Any thread,
// each container by one at a time.
class BareContainers {
 public:
  // live: a directory on a tmpfs, for bundles, exit files and crun's state. disk: for the writable layers.
  static Result<std::unique_ptr<BareContainers>> open(const NodeInside& node, ContainerTools tools,
                                                      ContainerModel model, std::string live, std::string disk);

  // Directories, the bundle with its config.json and the cgroups. pins: of "net", "ipc" and "uts". number: not in use.
  Result<BareContainer> prepare(unsigned number, const std::vector<std::pair<std::string, std::string>>& pins) const;
  // Overlay mount, conmon with `crun create`, `crun start`.
  Status start(BareContainer& container) const;
  // `crun exec` of the command.
  Status exec(const BareContainer& container, const std::vector<std::string>& command) const;
  // The same with its stdout in this pipe; the caller waits for its end.
  Result<Child> startExec(const BareContainer& container, const std::vector<std::string>& command, int out) const;
  // SIGTERM by pidfd, the exit file, `crun delete`, umount.
  Status stop(const BareContainer& container) const;
  // What stop leaves: directories and the monitor's cgroup.
  Status remove(const BareContainer& container) const;

 private:
  BareContainers(const NodeInside& node, ContainerTools tools, ContainerModel model, std::string live,
                 std::string disk);
  static std::string id(unsigned number) { return "bench-" + std::to_string(number); }
  std::string bundle(unsigned number) const { return live_ + "/bundles/" + id(number); }
  std::string writable(unsigned number) const { return disk_ + "/" + id(number); }
  std::vector<std::string> crun(std::vector<std::string> arguments) const;
  Result<Child> startCrun(std::vector<std::string> arguments, int out = -1) const;
  Status runCrun(std::vector<std::string> arguments) const;
  static std::vector<std::string> execArguments(const BareContainer& container,
                                                const std::vector<std::string>& command);
  SpawnOptions monitorOptions(const BareContainer& container) const;
  Status create(BareContainer& container) const;

  const NodeInside& node_;
  const ContainerTools tools_;
  const ContainerModel model_;
  const std::string live_;
  const std::string disk_;
  UniqueFd toolsCgroup_;
  std::unique_ptr<ExitWatch> exits_;
};

}  // namespace userpod::bench

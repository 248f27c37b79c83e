// The bare parts of containers: overlay mount, conmon, crun, signal and exit file; no daemon in between.
#pragma once

#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "daemon/sys/child.hpp"
#include "userns/node.hpp"

namespace userpod::bench {

// What the product's own container is made of, to make the same one without it.
struct ContainerModel {
  nlohmann::json spec;                  // its OCI spec
  std::vector<std::string> lowerLayers; // of its overlay, uppermost first
};

// Of a running container of the product: the lower layers of the overlay at the spec's root, from /proc/self/mountinfo.
Result<ContainerModel> modelOf(nlohmann::json spec);

struct ContainerTools {
  std::string crun;    // the read-only bind mount that the daemon uses
  std::string conmon;
};
Result<ContainerTools> findTools(const Paths& paths, const Settings& settings);

inline constexpr const char* kBareCgroup = "/bench";  // all cgroups of bare containers are below

// One thread, which is a process of the node's namespaces but its network and cgroup ones, as the daemon is.
class BareContainers {
 public:
  // live: a directory on a tmpfs, for bundles, exit files and crun's state. disk: for the writable layers.
  static Result<std::unique_ptr<BareContainers>> open(const NodeInside& node, ContainerTools tools, ContainerModel model,
                                                      std::string live, std::string disk);

  // Directories, the bundle with its config.json and the cgroups. pins: of "net", "ipc" and "uts".
  Status prepare(unsigned number, const std::vector<std::pair<std::string, std::string>>& pins);
  // Overlay mount, conmon with `crun create`, `crun start`.
  Status start(unsigned number);
  pid_t process() const { return process_; }  // of the container that was started last
  // `crun exec` of the command.
  Status exec(unsigned number, const std::vector<std::string>& command) const;
  // SIGTERM by pidfd, the exit file, `crun delete`, umount.
  Status stop(unsigned number);
  // What stop leaves: directories and the monitor's cgroup.
  Status remove(unsigned number) const;

 private:
  BareContainers(const NodeInside& node, ContainerTools tools, ContainerModel model, std::string live, std::string disk);
  std::string id(unsigned number) const { return "bench-" + std::to_string(number); }
  std::string bundle(unsigned number) const { return live_ + "/bundles/" + id(number); }
  std::string writable(unsigned number) const { return disk_ + "/" + id(number); }
  std::vector<std::string> crun(std::vector<std::string> arguments) const;
  Status runCrun(std::vector<std::string> arguments) const;
  SpawnOptions monitorOptions(unsigned number) const;
  Status create(unsigned number);
  Status waitExitFile(unsigned number);

  const NodeInside& node_;
  const ContainerTools tools_;
  const ContainerModel model_;
  const std::string live_;
  const std::string disk_;
  UniqueFd toolsCgroup_;
  UniqueFd monitorCgroup_;  // of the container being made: prepare() to start()
  UniqueFd exitWatch_;
  pid_t process_ = 0;
};

}  // namespace userpod::bench

// What is found by a check: the records, what was seen of the machine, and the comparison, which touches neither.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "daemon/store/live_store.hpp"
#include "daemon/store/model.hpp"
#include "daemon/sys/finding.hpp"
#include "daemon/sys/mount.hpp"
#include "policy/settings.hpp"
#include "userns/node.hpp"

namespace userpod::core {

// Taken on the strand. What is under way on an object makes it busy: nothing is said of it then.
struct Known {
  struct Pod {
    std::shared_ptr<const PodRecord> record;
    bool busy = false;
  };
  struct Container {
    std::shared_ptr<const ContainerRecord> record;
    bool busy = false;
  };
  std::map<std::string, Pod> pods;
  std::map<std::string, Container> containers;

  bool hasPod(const std::string& id) const { return pods.contains(id); }
  bool hasContainer(const std::string& id) const { return containers.contains(id); }
};

struct SeenCgroup {
  std::string path;           // below the node's root
  std::string id;             // of the container, pod or monitor that it is named by
  std::size_t processes = 0;  // directly in it
};

// Of a container whose record says that it lives.
struct SeenProcess {
  bool alive = false;       // a process with its number and start time, or it cannot be said
  bool inCgroup = false;    // and below the container's cgroup
  bool monitored = false;   // its conmon is in /mon/<id>
  bool serverLost = false;  // its fuse-overlayfs has ended
  bool bundle = false;      // its directory in the runtime directory
  bool exitFile = false;    // conmon has written one
};

struct SeenPath {
  std::string path;
  unsigned expected = 0;  // permission bits: no other may be set, and those of the owner must be
  bool exists = false;
  unsigned mode = 0;
  bool own = false;  // belongs to this user
};

// Looked at by a worker, after Known was taken.
struct Seen {
  std::vector<std::string> bundles, podDirectories, pins, exitFiles;  // names: ids
  std::vector<std::pair<std::string, std::string>> runtimeStates;     // id, handler
  std::vector<MountPoint> mounts;                                     // below the data and runtime directories
  std::vector<SeenCgroup> cgroups;                                    // named by an id
  std::map<std::string, SeenProcess> processes;                       // by container
  std::map<std::string, bool> roots;                         // of each container: it has a directory of its own
  std::set<std::string> overlaid;                            // of these, those that must be mounted to be seen
  std::map<std::string, std::vector<std::string>> lostPins;  // of ready pods: namespaces that are not pinned
  std::set<std::string> lostPauses;                          // pods whose pause process has ended
  std::vector<SeenPath> paths;
  Findings others;  // of the parts: images, storage, network, databases
  bool mountsRead = false;
  store::LiveStore::Content stored;
  bool storedRead = false;
};

// Which of these differ. What is not there at a second look either, is a finding: see CoreImpl::check.
Findings compare(const Known& known, const Seen& seen, const Paths& paths);

// Whether what a finding is about has changed between the records that the look began with and those of now, or is
// under way by now: then nothing is said of it.
bool hasMoved(const Known& before, const Known& now, const Finding& finding);

// The cgroups below this directory that are named by ids. What is below one that is no pod's is not looked at: a
// container may have cgroups of its own, and what it names them by is its own affair.
std::vector<SeenCgroup> cgroupsWithIds(const std::string& root, const std::function<bool(const std::string&)>& isPod);

// Whether no process has this number and start time. One that cannot be looked at is not gone.
bool isGone(pid_t pid, std::uint64_t start);

// The id of 64 hex digits that a name begins with, or nothing: "<id>", and "<id>-volume-0" of a fuse-overlayfs.
std::string idIn(const std::string& name);

}  // namespace userpod::core

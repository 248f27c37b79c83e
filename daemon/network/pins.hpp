// The files that keep a pod's namespaces alive: bind mounts of nsfs on a private tmpfs that only the node sees.
#pragma once

#include <string>
#include <vector>

#include "daemon/sys/error.hpp"
#include "policy/settings.hpp"

namespace userpod::network {

// Any thread; different pods at once.
class Pins {
 public:
  // Mounts the tmpfs at paths.node/ns, and the one that pods with the node's IPC share, unless they are there.
  static Result<Pins> open(const Paths& paths);

  std::string file(const std::string& podId, const std::string& name) const { return paths_.pin(podId) + "/" + name; }
  // The directory of the pod's pins: a daemon that is killed at any later point finds what to undo.
  Status begin(const std::string& podId) const;
  // Binds a namespace of the calling thread: "net", "ipc", "uts".
  Status pin(const std::string& podId, const std::string& name) const;
  // Moves the calling thread into one of them.
  Status enter(const std::string& podId, const std::string& name) const;
  // Drops all pins of the pod. What is not there is fine.
  Status remove(const std::string& podId) const;

  // /dev/shm of a pod, at its directory's "shm": 64 MiB of its own, or the one of the node's IPC.
  Status mountShm(const std::string& podId, bool ofNode) const;
  Status unmountShm(const std::string& podId) const;

 private:
  explicit Pins(const Paths& paths) : paths_(paths) {}
  std::string shm(const std::string& podId) const { return paths_.podDirectory(podId) + "/shm"; }
  std::string nodeShm() const { return paths_.node + "/shm"; }
  Paths paths_;
};

}  // namespace userpod::network

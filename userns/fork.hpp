// Running own code, without exec, inside the node while the caller stays in the host's namespaces.
#pragma once

#include <sys/types.h>

#include <functional>
#include <string>

#include "daemon/sys/child.hpp"
#include "userns/node.hpp"

namespace userpod {

struct ForkOptions {
  // All namespaces, network and cgroup included; else those of Node::join without network.
  bool everything = false;
  // Runs in the caller while the process that will join waits, still on the host: moving it into a cgroup.
  std::function<Status(pid_t joiner)> prepare;
};

// Forks a joiner, which joins the node, makes the process that runs `body` as a sibling (clone3 with CLONE_PARENT) and
// ends. The process is the caller's own child, is in the node's PID namespace, dies with the caller's thread (SIGKILL),
// has the caller's signal mask, descriptors and environment, and exits with body's result. `body` gets no other
// threads; the caller must be single-threaded.
Result<Child> forkInside(const Node& node, const ForkOptions& options, const std::function<int()>& body);

}  // namespace userpod

// The process that serves a root file system which fuse-overlayfs has mounted. It lives in a cgroup of the node,
// /fuse/<id of the plan>: there a later daemon finds it, and the cgroup without a process says that it has ended.
#pragma once

#include <string>

#include "daemon/sys/error.hpp"
#include "daemon/sys/fd.hpp"
#include "userns/node.hpp"

namespace userpod::storage {

// Its pidfd; none (an empty owner) when the container has no such cgroup; StorageFailed when the process has ended.
Result<UniqueFd> fuseServer(const NodeInside& node, const std::string& id);
// Kills what is in that cgroup, waits for its end and removes it. A missing one is fine.
Status endFuseServer(const NodeInside& node, const std::string& id);

}  // namespace userpod::storage

// The unit's main process, wholly in the host's namespaces: starts the daemon inside the node, passes signals and the
// exit status, and answers what only it can see (userns/broker.hpp).
#pragma once

#include <functional>

#include "daemon/sys/fd.hpp"

namespace userpod {

// Runs `inner` in the node and returns its exit status. Before the first thread of the process. The inner dies with this
// process, and this process ends with the inner.
int runOuter(const std::function<int(UniqueFd brokerSocket)>& inner);

}  // namespace userpod

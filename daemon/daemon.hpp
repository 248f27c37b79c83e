// The daemon proper, in the node's namespaces: what main() runs in the inner process.
#pragma once

#include "daemon/sys/fd.hpp"

namespace userpod {

// Serves until SIGTERM or SIGINT; returns the exit status. Called in a single-threaded process that has joined the
// node. brokerSocket leads to the outer process.
int runDaemon(UniqueFd brokerSocket);

}  // namespace userpod

// The unit's main process, wholly in the host's namespaces: starts the daemon inside the node, passes signals and the
// exit status, and answers what only it can see (userns/broker.hpp).
#pragma once

namespace userpod {

// Executes USERPOD_INNER in the node, with the broker's socket, and returns its exit status. A program of its own, so
// that this process does not carry the daemon's libraries. Before the first thread of the process. The inner dies with
// this process, and this process ends with the inner.
int runOuter();

}  // namespace userpod

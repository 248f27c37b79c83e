// The holder: main process of userpod-node.service. Makes the node, keeps its uplink, passes the stop on.
#pragma once

namespace userpod {

// Runs until SIGTERM or the node's end; the exit status of the process. Single-threaded.
int runHolder();

}  // namespace userpod

// What userpod-pull gives up before the first byte of a registry reaches it.
#pragma once

#include <string>

#include "daemon/sys/error.hpp"

namespace userpod::images {

// Afterwards the process, with all threads that it makes, reads what the user may read and talks to the network. It
// writes no file but by descriptors that are open already, starts no program and no process, reaches no other process
// by signals, traces, limits or the sockets of the user's session and of the buses (since Linux 6.12 no abstract socket
// either), and keeps no mount of a container or of a pod alive. For good. runtime: $XDG_RUNTIME_DIR. data: userpod's
// data directory, below which containers are mounted. Needs CAP_SYS_ADMIN in the user namespace of its mounts, and has
// no capabilities afterwards. Before the first thread.
Status confineTransfer(const std::string& runtime, const std::string& data);

}  // namespace userpod::images

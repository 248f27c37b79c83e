// What the process that unpacks a layer can still do.
#pragma once

#include "daemon/sys/error.hpp"

namespace userpod::images {

// From now on this process, which runs as uid 0 of a user namespace, sees `directory` (a descriptor) as its whole file
// system, keeps only the capabilities that owners, modes and file capabilities need, and may use only the system calls
// that reading, inflating and unpacking need: no socket, no exec, no other process, no new code. Any other call fails
// with EPERM. Before the first thread.
//
// What is left to one that a layer has taken over (by a fault of what inflates or parses): that layer's directory, and
// what the daemon believes of it. The compressed bytes are verified elsewhere, the DiffID only here.
Status confine(int directory);

}  // namespace userpod::images

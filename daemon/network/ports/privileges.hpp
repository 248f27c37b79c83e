// What userpod-ports may do: as little as its threads need.
#pragma once

#include "daemon/sys/error.hpp"

namespace userpod::ports {

// Of the calling thread, over the namespaces of the node: other addresses as a socket's own, marks, and ports below
// 1024.
Status keepNetworkCapabilities();
// Of the calling thread: none.
Status dropCapabilities();

}  // namespace userpod::ports

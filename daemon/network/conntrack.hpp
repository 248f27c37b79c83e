// The kernel's table of tracked connections, in the network namespace of the calling thread.
#pragma once

#include <string>
#include <vector>

#include "daemon/store/model.hpp"
#include "daemon/sys/error.hpp"

namespace userpod::network {

// Forgets UDP flows to these host ports of the namespace's own addresses, and those that were led to a pod at the given
// ones: the next packet of each is translated anew. Blocks while the table is read.
Status forgetUdpFlows(const std::vector<PortMapping>& ports, const std::vector<std::string>& addresses);

}  // namespace userpod::network

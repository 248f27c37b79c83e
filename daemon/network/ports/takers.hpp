// Who has a port that is taken.
#pragma once

#include <string>

#include "daemon/network/ports/messages.hpp"

namespace userpod::network {

// " by process 12 (nginx) of pod 1f2e...", " by a process of the host's root", or what is known; from /proc as the
// daemon sees it: the node's processes, and of the host's only whose they are. Slow where there are many processes.
std::string takerOf(const ports::Taken& taken);

}  // namespace userpod::network

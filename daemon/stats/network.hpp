// Counters of the interfaces in network namespaces.
#pragma once

#include <string>
#include <vector>

#include "daemon/stats/figures.hpp"

namespace userpod::stats {

// Of the namespaces at these paths, in their order: without lo, "eth0" first. None: it is gone, or the path is empty.
// Reads them in a thread that is made for it and ends with it, as a thread keeps alive the namespace that it is in.
std::vector<std::vector<InterfaceFigures>> readInterfaces(const std::vector<std::string>& namespaces);

}  // namespace userpod::stats

// Ports::open with another program, for tests, and without a cgroup where node.cgroupRoot is empty.
#pragma once

#include <memory>
#include <string>

#include "daemon/network/ports/ports.hpp"

namespace userpod::network {

Result<std::unique_ptr<Ports>> openPorts(const std::string& program, const Paths& paths, const Settings& settings,
                                         const NodeInside& node);

}  // namespace userpod::network

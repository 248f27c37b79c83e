// What making a container and changing its limits have in common.
#pragma once

#include "daemon/store/model.hpp"
#include "daemon/sys/error.hpp"

namespace userpod::oci {

// `delegated` is the content of cgroup.controllers.
bool hasController(const std::string& delegated, const std::string& controller);
// "<what> has no effect: the <controller> controller is not delegated to this user; ..."
std::string noController(const std::string& what, const std::string& controller);

// cpu.weight (1 to 10000) of cpu_shares (2 to 262144), as kubelet and the OCI runtimes compute it.
std::int64_t cpuWeight(std::int64_t shares);

// Takes out the limits whose controller is not delegated, and what belongs to them, with a warning each. What is left
// can be enforced. InvalidArgument, NotSupported: as checkHugePages and controllerOf.
Status dropUnenforceable(const std::string& delegated, Resources& limits, std::vector<std::string>& warnings);

// NotSupported when a limit of huge pages is not 0, which kubelet sends for each size.
Status checkHugePages(const Resources& wanted);
// The controller of a file of a cgroup, "memory" for "memory.high". InvalidArgument: not such a name, or not text.
Result<std::string> controllerOf(const std::string& file, const std::string& value);

}  // namespace userpod::oci

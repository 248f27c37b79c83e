// Containers: requests to ContainerConfig, records to answers. Pure functions.
#pragma once

#include "api.pb.h"
#include "daemon/store/model.hpp"
#include "daemon/sys/error.hpp"

namespace userpod::cri {

namespace v1 = ::runtime::v1;

Result<ContainerConfig> toContainerConfig(const v1::ContainerConfig& config);

// Whether CRI clients see it: whole, and not made over the bus.
bool visible(const ContainerRecord& container);
// Visible, and all conditions of the filter hold.
bool matches(const v1::ContainerFilter& filter, const ContainerRecord& container);

void fillItem(const ContainerRecord& container, v1::Container* item);
void fillStatus(const ContainerRecord& container, v1::ContainerStatus* status);
// JSON for people: the key "info" of a verbose status. hostPid: 0 when it does not run; spec: config.json or "".
std::string containerInfo(const ContainerRecord& container, pid_t hostPid, const std::string& spec);

}  // namespace userpod::cri

// Security contexts and namespaces of pods and containers.
#pragma once

#include "api.pb.h"
#include "daemon/store/model.hpp"
#include "daemon/sys/error.hpp"

namespace userpod::cri {

namespace v1 = ::runtime::v1;

Result<PodSecurity> toPodSecurity(const v1::LinuxSandboxSecurityContext& context);
Result<ContainerSecurity> toContainerSecurity(const v1::LinuxContainerSecurityContext& context);
void fillNamespaces(const NamespaceOptions& options, v1::NamespaceOption* message);

}  // namespace userpod::cri

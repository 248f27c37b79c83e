// Limits, both ways.
#pragma once

#include <nlohmann/json.hpp>
#include <string_view>

#include "api.pb.h"
#include "daemon/store/model.hpp"
#include "daemon/sys/error.hpp"

namespace userpod::cri {

namespace v1 = ::runtime::v1;

// `field` is the path of the message in the request, for errors.
Result<Resources> toResources(std::string_view field, const v1::LinuxContainerResources& message);
void fillResources(const Resources& resources, v1::LinuxContainerResources* message);

// As JSON with the field names of the CRI; what is 0 or empty is left out.
nlohmann::json resourcesInfo(const Resources& resources);

}  // namespace userpod::cri

#include "daemon/oci/spec.hpp"

#include <fcntl.h>

namespace userpod::oci {

Result<UniqueFd> openRootfs(const SpecInput& input) {
  return openFile(input.rootfs, O_PATH | O_DIRECTORY);
}

Result<BuiltSpec> buildSpec(SpecInput& input) {
  SpecParts parts{input};
  const auto& config = input.container.config;
  parts.spec["ociVersion"] = "1.0.2";
  parts.spec["root"] = {{"path", input.rootfs}, {"readonly", config.security.readonlyRootfs}};
  parts.spec["linux"] = Json::object();
  USERPOD_CHECK(addProcess(parts));
  USERPOD_CHECK(addMounts(parts));
  USERPOD_CHECK(addDevices(parts));
  USERPOD_CHECK(addCdiDevices(parts));
  USERPOD_CHECK(addHooks(parts));
  USERPOD_CHECK(addResources(parts));
  USERPOD_CHECK(addNamespaces(parts));
  USERPOD_CHECK(addSecurity(parts));
  USERPOD_CHECK(addLabels(parts));
  // Texts were checked to be UTF-8 where they come in; what is left (a path of the machine) must not throw here.
  parts.built.json = parts.spec.dump(-1, ' ', false, Json::error_handler_t::replace);
  return std::move(parts.built);
}

}  // namespace userpod::oci

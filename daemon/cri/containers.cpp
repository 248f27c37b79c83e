#include "daemon/cri/containers.hpp"

#include <fmt/core.h>

#include "daemon/cri/fields.hpp"
#include "daemon/cri/resources.hpp"
#include "daemon/cri/security.hpp"
#include "daemon/cri/signals.hpp"

namespace userpod::cri {
namespace {

constexpr int kListLimit = 65536;  // entries of any one list: far above use, far below trouble

Status takeImage(const v1::ContainerConfig& config, ContainerConfig* container) {
  if (config.image().image().empty())
    return invalidField("config.image.image", "is empty; give the id that PullImage returned, or a name");
  USERPOD_CHECK(checkText("config.image.image", config.image().image(), 4096));
  USERPOD_CHECK(checkText("config.image.user_specified_image", config.image().user_specified_image(), 4096));
  container->image = config.image().image();
  container->userSpecifiedImage = config.image().user_specified_image();
  return {};
}

Status takeCommand(const v1::ContainerConfig& config, ContainerConfig* container) {
  container->command = toVector(config.command());
  container->args = toVector(config.args());
  for (const auto& word : container->command) USERPOD_CHECK(checkText("config.command", word));
  for (const auto& word : container->args) USERPOD_CHECK(checkText("config.args", word));
  if (!config.working_dir().empty()) USERPOD_CHECK(checkAbsolute("config.working_dir", config.working_dir()));
  container->workingDirectory = config.working_dir();
  for (const auto& variable : config.envs()) {
    if (variable.key().empty() || variable.key().find('=') != std::string::npos)
      return invalidField("config.envs.key", "is empty or contains \"=\"; give the name of a variable");
    USERPOD_CHECK(checkText("config.envs.key", variable.key()));
    USERPOD_CHECK(checkText(entryOf("config.envs", variable.key()), variable.value()));
    container->environment.emplace_back(variable.key(), variable.value());
  }
  return {};
}

Status checkImageVolume(const std::string& field, const v1::Mount& mount) {
  if (!mount.host_path().empty()) return invalidField(field + ".host_path", "is set beside image; set one of them");
  if (!mount.readonly())
    return invalidField(field + ".readonly", "must be set: the content of an image cannot be written");
  if (!mount.image_sub_path().empty()) USERPOD_CHECK(checkBelow(field + ".image_sub_path", mount.image_sub_path()));
  return {};
}

Status checkMountOptions(const std::string& field, const v1::Mount& mount) {
  if (!v1::MountPropagation_IsValid(mount.propagation()))
    return invalidField(field + ".propagation", "must be PRIVATE, HOST_TO_CONTAINER or BIDIRECTIONAL");
  if (mount.recursive_read_only()) {
    if (!mount.readonly()) return invalidField(field + ".recursive_read_only", "needs readonly; set both");
    if (mount.propagation() != v1::PROPAGATION_PRIVATE)
      return invalidField(field + ".recursive_read_only", "needs propagation PRIVATE");
  }
  if (mount.uidmappings_size() > 0 || mount.gidmappings_size() > 0)
    return unsupportedField(field + ".uidMappings",
                            "asks for an idmapped mount, which needs root on the host; leave it out");
  if (mount.mount_options_size() > 0)
    return unsupportedField(field + ".mount_options", "is not advertised by this runtime; leave it out");
  return {};
}

Result<MountConfig> toMount(const v1::Mount& mount) {
  const std::string field = entryOf("config.mounts", mount.container_path());
  USERPOD_CHECK(checkAbsolute("config.mounts.container_path", mount.container_path()));
  if (mount.has_image() && !mount.image().image().empty()) {
    USERPOD_CHECK(checkImageVolume(field, mount));
  } else {
    USERPOD_CHECK(checkAbsolute(field + ".host_path", mount.host_path()));
    if (!mount.image_sub_path().empty()) return invalidField(field + ".image_sub_path", "is set without an image");
  }
  USERPOD_CHECK(checkMountOptions(field, mount));
  MountConfig result;
  result.containerPath = mount.container_path();
  result.hostPath = mount.host_path();
  result.readonly = mount.readonly();
  result.recursiveReadOnly = mount.recursive_read_only();
  result.selinuxRelabel = mount.selinux_relabel();
  result.propagation = static_cast<int>(mount.propagation());
  result.image = mount.image().image();
  result.imageSubPath = mount.image_sub_path();
  return result;
}

Result<DeviceConfig> toDevice(const v1::Device& device) {
  USERPOD_CHECK(checkAbsolute("config.devices.host_path", device.host_path()));
  DeviceConfig result{device.container_path(), device.host_path(), device.permissions()};
  if (result.containerPath.empty()) result.containerPath = result.hostPath;
  USERPOD_CHECK(checkAbsolute("config.devices.container_path", result.containerPath));
  if (result.permissions.empty()) result.permissions = "rwm";
  if (result.permissions.find_first_not_of("rwm") != std::string::npos)
    return invalidField(entryOf("config.devices", result.containerPath) + ".permissions", "may only have r, w and m");
  return result;
}

Status takeLists(const v1::ContainerConfig& config, ContainerConfig* container) {
  if (config.mounts_size() > kListLimit || config.devices_size() > kListLimit || config.envs_size() > kListLimit ||
      config.cdi_devices_size() > kListLimit)
    return invalidField("config", fmt::format("has more than {} mounts, devices or envs", kListLimit));
  for (const auto& message : config.mounts()) {
    USERPOD_TRY(mount, toMount(message));
    container->mounts.push_back(std::move(mount));
  }
  for (const auto& message : config.devices()) {
    USERPOD_TRY(device, toDevice(message));
    container->devices.push_back(std::move(device));
  }
  for (const auto& device : config.cdi_devices()) {
    USERPOD_CHECK(checkWord("config.CDI_devices.name", device.name()));
    container->cdiDevices.push_back(device.name());
  }
  return {};
}

Status takeStreams(const v1::ContainerConfig& config, ContainerConfig* container) {
  if (!config.log_path().empty()) USERPOD_CHECK(checkBelow("config.log_path", config.log_path()));
  container->logPath = config.log_path();
  container->stdinOpen = config.stdin();
  container->stdinOnce = config.stdin_once();
  container->tty = config.tty();
  int signal = toKernelSignal(config.stop_signal());
  if (signal < 0) return invalidField("config.stop_signal", "is not a signal of this kernel");
  container->stopSignal = signal;
  return {};
}

}  // namespace

Result<ContainerConfig> toContainerConfig(const v1::ContainerConfig& config) {
  ContainerConfig container;
  if (!config.has_metadata()) return invalidField("config.metadata", "is missing; give a name");
  USERPOD_CHECK(checkName("config.metadata.name", config.metadata().name()));
  container.name = config.metadata().name();
  container.attempt = config.metadata().attempt();
  USERPOD_CHECK(takeImage(config, &container));
  USERPOD_CHECK(takeCommand(config, &container));
  USERPOD_CHECK(takeLists(config, &container));
  USERPOD_CHECK(takeStreams(config, &container));
  container.labels = toStringMap(config.labels());
  USERPOD_CHECK(checkLabels("config.labels", container.labels));
  container.annotations = toStringMap(config.annotations());
  USERPOD_CHECK(checkAnnotations("config.annotations", container.annotations));
  if (config.linux().has_resources()) {
    USERPOD_TRY(resources, toResources("config.linux.resources", config.linux().resources()));
    container.resources = std::move(resources);
  }
  USERPOD_TRY(security, toContainerSecurity(config.linux().security_context()));
  container.security = std::move(security);
  return container;
}

}  // namespace userpod::cri

#include "daemon/cri/security.hpp"

#include <fmt/core.h>

#include "daemon/cri/fields.hpp"

namespace userpod::cri {
namespace {

enum class ProfileKind { Seccomp, AppArmor };

// With one kubelet gives 65536 ids; whatever it gives, the root of the pod must be among them.
Status checkIdMaps(const std::string& field, const google::protobuf::RepeatedPtrField<v1::IDMapping>& maps) {
  if (maps.size() != 1) return invalidField(field, fmt::format("has {} ranges; give exactly one", maps.size()));
  if (maps[0].length() == 0) return invalidField(field, "has a range of length 0");
  if (maps[0].container_id() != 0) return invalidField(field, "does not map id 0 of the container");
  return {};
}

Status checkUserNamespace(const std::string& field, const v1::UserNamespace& options) {
  if (options.mode() == v1::NODE) {
    if (options.uids_size() > 0 || options.gids_size() > 0)
      return invalidField(field, "has id maps with mode NODE; leave them out or choose POD");
    return {};
  }
  if (options.mode() != v1::POD) return invalidField(field + ".mode", "must be POD or NODE");
  USERPOD_CHECK(checkIdMaps(field + ".uids", options.uids()));
  USERPOD_CHECK(checkIdMaps(field + ".gids", options.gids()));
  return unsupportedField(
      field + ".mode",
      "POD asks for a user namespace of the pod's own, which this runtime does not make and does not "
      "advertise; set hostUsers: true. The pod runs without root on the host in any case");
}

// Network and IPC belong to the pod as a whole.
Status checkShared(const std::string& field, v1::NamespaceMode mode) {
  if (mode == v1::POD || mode == v1::NODE) return {};
  return invalidField(field, "must be POD or NODE");
}

Result<NamespaceOptions> toNamespaces(const std::string& field, const v1::NamespaceOption& message, bool ofPod) {
  USERPOD_CHECK(checkShared(field + ".network", message.network()));
  USERPOD_CHECK(checkShared(field + ".ipc", message.ipc()));
  if (!v1::NamespaceMode_IsValid(message.pid())) return invalidField(field + ".pid", "is not a namespace mode");
  if (message.pid() == v1::TARGET) {
    if (ofPod) return invalidField(field + ".pid", "TARGET is for containers; a pod has POD, CONTAINER or NODE");
    USERPOD_CHECK(checkId(field + ".target_id", message.target_id()));
  }
  if (message.has_userns_options())
    USERPOD_CHECK(checkUserNamespace(field + ".userns_options", message.userns_options()));
  NamespaceOptions options;
  options.network = static_cast<NamespaceMode>(message.network());
  options.pid = static_cast<NamespaceMode>(message.pid());
  options.ipc = static_cast<NamespaceMode>(message.ipc());
  options.targetId = message.target_id();
  return options;
}

Result<SecurityProfile> toProfile(const std::string& field, const v1::SecurityProfile& message, ProfileKind kind) {
  if (!v1::SecurityProfile_ProfileType_IsValid(message.profile_type()))
    return invalidField(field + ".profile_type", "must be RuntimeDefault, Unconfined or Localhost");
  SecurityProfile profile;
  profile.type = static_cast<SecurityProfile::Type>(message.profile_type());
  if (profile.type != SecurityProfile::Type::Localhost) return profile;
  // A seccomp profile is a file, an AppArmor profile the name of a loaded one.
  USERPOD_CHECK(kind == ProfileKind::Seccomp ? checkAbsolute(field + ".localhost_ref", message.localhost_ref())
                                             : checkWord(field + ".localhost_ref", message.localhost_ref()));
  profile.localhostRef = message.localhost_ref();
  return profile;
}

// The older spelling: "", "runtime/default", "docker/default", "unconfined", "localhost/<reference>".
Result<std::optional<SecurityProfile>> fromOldSpelling(const std::string& field, const std::string& text,
                                                       ProfileKind kind) {
  constexpr std::string_view kLocalhost = "localhost/";
  v1::SecurityProfile message;
  if (text.empty()) return std::optional<SecurityProfile>();
  if (text == "runtime/default" || text == "docker/default") {
    message.set_profile_type(v1::SecurityProfile::RuntimeDefault);
  } else if (text == "unconfined") {
    message.set_profile_type(v1::SecurityProfile::Unconfined);
  } else if (text.starts_with(kLocalhost)) {
    message.set_profile_type(v1::SecurityProfile::Localhost);
    message.set_localhost_ref(text.substr(kLocalhost.size()));
  } else {
    return invalidField(field, "must be runtime/default, unconfined or localhost/ and a profile");
  }
  USERPOD_TRY(profile, toProfile(field, message, kind));
  return std::optional<SecurityProfile>(std::move(profile));
}

// The message wins over the older spelling; absent and empty both mean: not said.
template <typename Context>
Result<std::optional<SecurityProfile>> toSeccomp(const std::string& field, const Context& context) {
  if (context.has_seccomp()) {
    USERPOD_TRY(profile, toProfile(field + ".seccomp", context.seccomp(), ProfileKind::Seccomp));
    return std::optional<SecurityProfile>(std::move(profile));
  }
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wdeprecated-declarations"
  const std::string& old = context.seccomp_profile_path();
#pragma GCC diagnostic pop
  return fromOldSpelling(field + ".seccomp_profile_path", old, ProfileKind::Seccomp);
}

Result<std::optional<SecurityProfile>> toAppArmor(const std::string& field,
                                                  const v1::LinuxContainerSecurityContext& context) {
  if (context.has_apparmor()) {
    USERPOD_TRY(profile, toProfile(field + ".apparmor", context.apparmor(), ProfileKind::AppArmor));
    return std::optional<SecurityProfile>(std::move(profile));
  }
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wdeprecated-declarations"
  const std::string& old = context.apparmor_profile();
#pragma GCC diagnostic pop
  return fromOldSpelling(field + ".apparmor_profile", old, ProfileKind::AppArmor);
}

template <typename Context>
std::optional<SelinuxOptions> toSelinux(const Context& context) {
  const auto& message = context.selinux_options();
  if (message.user().empty() && message.role().empty() && message.type().empty() && message.level().empty()) return {};
  return SelinuxOptions{message.user(), message.role(), message.type(), message.level()};
}

// User, groups and their policy: alike in both contexts.
template <typename Context, typename Security>
Status takeIds(const std::string& field, const Context& context, bool hasUserName, Security* security) {
  if (context.has_run_as_user()) {
    USERPOD_CHECK(checkUserId(field + ".run_as_user", context.run_as_user().value()));
    security->runAsUser = context.run_as_user().value();
  }
  if (context.has_run_as_group()) {
    if (!security->runAsUser && !hasUserName)
      return invalidField(field + ".run_as_group", "is set without a user; set run_as_user too");
    USERPOD_CHECK(checkUserId(field + ".run_as_group", context.run_as_group().value()));
    security->runAsGroup = context.run_as_group().value();
  }
  security->supplementalGroups = toVector(context.supplemental_groups());
  USERPOD_CHECK(checkUserIds(field + ".supplemental_groups", security->supplementalGroups));
  if (!v1::SupplementalGroupsPolicy_IsValid(context.supplemental_groups_policy()))
    return invalidField(field + ".supplemental_groups_policy", "must be Merge or Strict");
  return {};
}

Result<CapabilityConfig> toCapabilities(const std::string& field, const v1::Capability& message) {
  CapabilityConfig config{toVector(message.add_capabilities()), toVector(message.drop_capabilities()),
                          toVector(message.add_ambient_capabilities())};
  for (const auto* list : {&config.add, &config.drop, &config.addAmbient})
    for (const auto& name : *list) USERPOD_CHECK(checkWord(field, name));
  return config;
}

}  // namespace

void fillNamespaces(const NamespaceOptions& options, v1::NamespaceOption* message) {
  message->set_network(static_cast<v1::NamespaceMode>(options.network));
  message->set_pid(static_cast<v1::NamespaceMode>(options.pid));
  message->set_ipc(static_cast<v1::NamespaceMode>(options.ipc));
  message->set_target_id(options.targetId);
}

Result<PodSecurity> toPodSecurity(const v1::LinuxSandboxSecurityContext& context) {
  const std::string field = "config.linux.security_context";
  PodSecurity security;
  USERPOD_TRY(namespaces, toNamespaces(field + ".namespace_options", context.namespace_options(), true));
  security.namespaces = std::move(namespaces);
  USERPOD_CHECK(takeIds(field, context, false, &security));
  security.readonlyRootfs = context.readonly_rootfs();
  security.privileged = context.privileged();
  USERPOD_TRY(seccomp, toSeccomp(field, context));
  security.seccomp = std::move(seccomp);
  if (context.has_apparmor()) {
    USERPOD_TRY(apparmor, toProfile(field + ".apparmor", context.apparmor(), ProfileKind::AppArmor));
    security.apparmor = std::move(apparmor);
  }
  security.selinux = toSelinux(context);
  return security;
}

Result<ContainerSecurity> toContainerSecurity(const v1::LinuxContainerSecurityContext& context) {
  const std::string field = "config.linux.security_context";
  ContainerSecurity security;
  USERPOD_TRY(namespaces, toNamespaces(field + ".namespace_options", context.namespace_options(), false));
  security.namespaces = std::move(namespaces);
  if (!context.run_as_username().empty()) {
    if (context.has_run_as_user())
      return invalidField(field + ".run_as_username", "is set beside run_as_user; set one of them");
    USERPOD_CHECK(checkWord(field + ".run_as_username", context.run_as_username()));
    security.runAsUsername = context.run_as_username();
  }
  USERPOD_CHECK(takeIds(field, context, !security.runAsUsername.empty(), &security));
  security.strictGroups = context.supplemental_groups_policy() == v1::Strict;
  USERPOD_TRY(capabilities, toCapabilities(field + ".capabilities", context.capabilities()));
  security.capabilities = std::move(capabilities);
  security.privileged = context.privileged();
  security.readonlyRootfs = context.readonly_rootfs();
  security.noNewPrivs = context.no_new_privs();
  security.maskedPaths = toVector(context.masked_paths());
  security.readonlyPaths = toVector(context.readonly_paths());
  for (const auto& path : security.maskedPaths) USERPOD_CHECK(checkPlace(field + ".masked_paths", path));
  for (const auto& path : security.readonlyPaths) USERPOD_CHECK(checkPlace(field + ".readonly_paths", path));
  USERPOD_TRY(seccomp, toSeccomp(field, context));
  security.seccomp = std::move(seccomp);
  USERPOD_TRY(apparmor, toAppArmor(field, context));
  security.apparmor = std::move(apparmor);
  security.selinux = toSelinux(context);
  return security;
}

}  // namespace userpod::cri

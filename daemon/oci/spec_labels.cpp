// AppArmor and SELinux: what the host has and lets an unprivileged user have is in the spec; the rest is an error.
// What was asked for is never left out in silence.
#include <fmt/core.h>

#include <algorithm>

#include "daemon/oci/spec.hpp"

namespace userpod::oci {
namespace {

// From two bytes of the pod's id: containers of one pod may share files, those of others may not.
std::string levelOf(const std::string& podId) {
  auto number = [&](std::size_t at) { return std::strtoul(podId.substr(at, 3).c_str(), nullptr, 16) % 1024; };
  auto first = number(0);
  auto second = number(3);
  if (first == second) second = (second + 1) % 1024;
  return fmt::format("s0:c{},c{}", std::min(first, second), std::max(first, second));
}

bool plainWord(const std::string& word, std::string_view more) {
  return word.size() <= 256 && std::all_of(word.begin(), word.end(), [&](unsigned char c) {
           return std::isalnum(c) != 0 || more.find(static_cast<char>(c)) != std::string_view::npos;
         });
}

std::string orElse(const std::string& asked, std::string otherwise) {
  return asked.empty() ? std::move(otherwise) : asked;
}

}  // namespace

// The words of every policy for containers (container-selinux, container_selinux(8)).
Result<SelinuxLabels> selinuxLabels(const SelinuxOptions& options, const std::string& podId) {
  if (!plainWord(options.user, "_.-") || !plainWord(options.role, "_.-") || !plainWord(options.type, "_.-") ||
      !plainWord(options.level, "_.-:,"))
    return Error(Code::InvalidArgument, "selinux_options has a word that no SELinux context can have");
  std::string user = orElse(options.user, "system_u");
  std::string level = orElse(options.level, levelOf(podId));
  return SelinuxLabels{
      fmt::format("{}:{}:{}:{}", user, orElse(options.role, "system_r"), orElse(options.type, "container_t"), level),
      fmt::format("{}:object_r:container_file_t:{}", user, level)};
}

Status checkModules(const policy::SecurityModules& modules, const std::optional<SecurityProfile>& apparmor,
                    const std::optional<SelinuxOptions>& selinux) {
  if (selinux && !modules.hasSelinux())
    return Error(Code::NotSupported,
                 "selinux_options: this host has no SELinux, so the container would run without it; leave them out");
  if (!apparmor || apparmor->type != SecurityProfile::Type::Localhost) return {};
  if (modules.hasAppArmor()) return modules.tryAppArmor(apparmor->localhostRef);
  return Error(Code::NotSupported, "apparmor: this host has no AppArmor, so the container would run without profile " +
                                       apparmor->localhostRef.substr(0, 128) +
                                       "; ask for RuntimeDefault or Unconfined");
}

Result<std::string> mountLabel(const policy::SecurityModules& modules, const PodRecord& pod,
                               const ContainerRecord& container) {
  const auto& security = container.config.security;
  if (security.privileged || !security.selinux) return std::string();
  USERPOD_CHECK(checkModules(modules, std::nullopt, security.selinux));
  USERPOD_TRY(labels, selinuxLabels(*security.selinux, pod.id));
  return labels.file;
}

// RuntimeDefault is no profile: loading one needs root.
Status addLabels(SpecParts& parts) {
  const SpecInput& input = parts.input;
  const auto& security = input.container.config.security;
  if (security.privileged) return {};
  USERPOD_CHECK(checkModules(*input.modules, security.apparmor, security.selinux));
  if (security.apparmor && security.apparmor->type == SecurityProfile::Type::Localhost)
    parts.spec["process"]["apparmorProfile"] = security.apparmor->localhostRef;
  if (!security.selinux) return {};
  USERPOD_TRY(labels, selinuxLabels(*security.selinux, input.pod.id));
  parts.spec["process"]["selinuxLabel"] = labels.process;
  parts.spec["linux"]["mountLabel"] = labels.file;
  // What the pod gives each container; and of the request what it says.
  USERPOD_CHECK(input.modules->relabel(input.podDirectory, labels.file));
  for (const auto& mount : input.container.config.mounts)
    if (mount.selinuxRelabel && mount.image.empty()) {
      USERPOD_CHECK(input.modules->relabel(mount.hostPath, labels.file));
    }
  return {};
}

}  // namespace userpod::oci

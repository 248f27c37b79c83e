#include "daemon/cri/pods.hpp"

#include <arpa/inet.h>
#include <fmt/core.h>

#include <algorithm>

#include "daemon/cri/fields.hpp"
#include "daemon/cri/info.hpp"
#include "daemon/cri/resources.hpp"
#include "daemon/cri/security.hpp"

namespace userpod::cri {
namespace {

constexpr std::size_t kHostnameLimit = 64;  // HOST_NAME_MAX
constexpr std::size_t kPortLimit = 1024;

Status takeMetadata(const v1::PodSandboxConfig& config, PodConfig* pod) {
  if (!config.has_metadata()) return invalidField("config.metadata", "is missing; give name, namespace and uid");
  const auto& metadata = config.metadata();
  USERPOD_CHECK(checkName("config.metadata.name", metadata.name()));
  USERPOD_CHECK(checkName("config.metadata.namespace", metadata.namespace_()));
  USERPOD_CHECK(checkName("config.metadata.uid", metadata.uid()));
  pod->name = metadata.name();
  pod->nameSpace = metadata.namespace_();
  pod->uid = metadata.uid();
  pod->attempt = metadata.attempt();
  return {};
}

Status checkHostname(const std::string& hostname) {
  bool good = std::all_of(hostname.begin(), hostname.end(), [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '-' || c == '.' ||
           c == '_';
  });
  if (good && hostname.size() <= kHostnameLimit) return {};
  return invalidField("config.hostname", "must have at most 64 letters, digits, dots and hyphens");
}

Result<std::string> logDirectory(const std::string& asked, const PodConfig& pod, const std::string& podLogs) {
  if (asked.empty()) return fmt::format("{}/{}_{}_{}", podLogs, pod.nameSpace, pod.name, pod.uid);
  USERPOD_CHECK(checkAbsolute("config.log_directory", asked));
  if ((asked + "/").find("/../") != std::string::npos)
    return invalidField("config.log_directory", "contains \"..\"; give the path that is meant");
  return asked;
}

// Each entry becomes a word of resolv.conf.
Result<DnsConfig> toDns(const v1::DNSConfig& message) {
  DnsConfig dns{toVector(message.servers()), toVector(message.searches()), toVector(message.options())};
  for (const auto& server : dns.servers) USERPOD_CHECK(checkWord("config.dns_config.servers", server));
  for (const auto& search : dns.searches) USERPOD_CHECK(checkWord("config.dns_config.searches", search));
  for (const auto& option : dns.options) USERPOD_CHECK(checkWord("config.dns_config.options", option));
  return dns;
}

bool isAddress(const std::string& text) {
  in6_addr address{};
  return ::inet_pton(AF_INET, text.c_str(), &address) == 1 || ::inet_pton(AF_INET6, text.c_str(), &address) == 1;
}

Result<PortMapping> toPort(const v1::PortMapping& message) {
  if (!v1::Protocol_IsValid(message.protocol()))
    return invalidField("config.port_mappings.protocol", "must be TCP, UDP or SCTP");
  USERPOD_CHECK(checkRange("config.port_mappings.container_port", message.container_port(), 1, 65535));
  USERPOD_CHECK(checkRange("config.port_mappings.host_port", message.host_port(), 0, 65535));
  if (!message.host_ip().empty() && !isAddress(message.host_ip()))
    return invalidField("config.port_mappings.host_ip", "is not an IPv4 or IPv6 address");
  return PortMapping{static_cast<int>(message.protocol()), message.container_port(), message.host_port(),
                     message.host_ip()};
}

Result<StringMap> toSysctls(const v1::LinuxPodSandboxConfig& linux) {
  StringMap sysctls = toStringMap(linux.sysctls());
  for (const auto& [name, value] : sysctls) {
    USERPOD_CHECK(checkWord("config.linux.sysctls", name));
    if (name.find("..") != std::string::npos) return invalidField("config.linux.sysctls", "has a name with \"..\"");
    USERPOD_CHECK(checkText(entryOf("config.linux.sysctls", name), value, 4096));
  }
  return sysctls;
}

Status takeLinux(const v1::LinuxPodSandboxConfig& linux, PodConfig* pod) {
  USERPOD_CHECK(checkText("config.linux.cgroup_parent", linux.cgroup_parent(), 4095));
  pod->cgroupParent = linux.cgroup_parent();
  USERPOD_TRY(sysctls, toSysctls(linux));
  pod->sysctls = std::move(sysctls);
  USERPOD_TRY(security, toPodSecurity(linux.security_context()));
  pod->security = std::move(security);
  if (linux.has_overhead()) {
    USERPOD_TRY(overhead, toResources("config.linux.overhead", linux.overhead()));
    pod->overhead = std::move(overhead);
  }
  if (linux.has_resources()) {
    USERPOD_TRY(resources, toResources("config.linux.resources", linux.resources()));
    pod->resources = std::move(resources);
  }
  return {};
}

void fillMetadata(const PodConfig& config, v1::PodSandboxMetadata* metadata) {
  metadata->set_name(config.name);
  metadata->set_namespace_(config.nameSpace);
  metadata->set_uid(config.uid);
  metadata->set_attempt(config.attempt);
}

v1::PodSandboxState stateOf(const PodRecord& pod) {
  return pod.state == PodRecord::State::Ready ? v1::SANDBOX_READY : v1::SANDBOX_NOTREADY;
}

// What the list and the status have in common.
template <typename Message>
void fillCommon(const PodRecord& pod, Message* message) {
  message->set_id(pod.id);
  fillMetadata(pod.config, message->mutable_metadata());
  message->set_state(stateOf(pod));
  message->set_created_at(pod.createdAt);
  message->mutable_labels()->insert(pod.config.labels.begin(), pod.config.labels.end());
  message->mutable_annotations()->insert(pod.config.annotations.begin(), pod.config.annotations.end());
  message->set_runtime_handler(pod.runtimeHandler);
}

}  // namespace

Result<PodConfig> toPodConfig(const v1::PodSandboxConfig& config, const std::string& podLogs) {
  PodConfig pod;
  USERPOD_CHECK(takeMetadata(config, &pod));
  USERPOD_CHECK(checkHostname(config.hostname()));
  pod.hostname = config.hostname();
  USERPOD_TRY(logs, logDirectory(config.log_directory(), pod, podLogs));
  pod.logDirectory = std::move(logs);
  if (config.has_dns_config()) {
    USERPOD_TRY(dns, toDns(config.dns_config()));
    pod.dns = std::move(dns);
  }
  if (static_cast<std::size_t>(config.port_mappings_size()) > kPortLimit)
    return invalidField("config.port_mappings", fmt::format("has more than {} entries", kPortLimit));
  for (const auto& mapping : config.port_mappings()) {
    USERPOD_TRY(port, toPort(mapping));
    pod.ports.push_back(std::move(port));
  }
  pod.labels = toStringMap(config.labels());
  USERPOD_CHECK(checkLabels("config.labels", pod.labels));
  pod.annotations = toStringMap(config.annotations());
  USERPOD_CHECK(checkAnnotations("config.annotations", pod.annotations));
  USERPOD_CHECK(takeLinux(config.linux(), &pod));
  return pod;
}

bool visible(const PodRecord& pod) {
  return pod.origin == Origin::Cri && pod.state != PodRecord::State::Creating;
}

bool matches(const v1::PodSandboxFilter& filter, const PodRecord& pod) {
  return visible(pod) && pod.id.starts_with(filter.id()) &&
         (!filter.has_state() || filter.state().state() == stateOf(pod)) &&
         selects(filter.label_selector(), pod.config.labels);
}

void fillItem(const PodRecord& pod, v1::PodSandbox* item) {
  fillCommon(pod, item);
}

void fillStatus(const PodRecord& pod, v1::PodSandboxStatus* status) {
  fillCommon(pod, status);
  auto* network = status->mutable_network();
  for (const auto& address : pod.addresses) {
    if (network->ip().empty())
      network->set_ip(address);
    else
      network->add_additional_ips()->set_ip(address);
  }
  fillNamespaces(pod.config.security.namespaces, status->mutable_linux()->mutable_namespaces()->mutable_options());
}

std::string podInfo(const PodRecord& pod, pid_t hostPid, const network::PodNamespaces& namespaces) {
  const PodConfig& config = pod.config;
  nlohmann::json linux{{"cgroup_parent", config.cgroupParent}, {"sysctls", config.sysctls}};
  if (config.overhead) linux["overhead"] = resourcesInfo(*config.overhead);
  if (config.resources) linux["resources"] = resourcesInfo(*config.resources);
  nlohmann::json spec{{"hostname", config.hostname},
                      {"linux", {{"cgroupsPath", pod.cgroup}, {"sysctl", config.sysctls}}}};
  auto& list = spec["linux"]["namespaces"] = nlohmann::json::array();
  if (pod.state == PodRecord::State::Ready)
    for (const auto& [type, path] : {std::pair{"network", namespaces.network},
                                     {"ipc", namespaces.ipc},
                                     {"uts", namespaces.uts},
                                     {"pid", pod.pausePid > 0 ? fmt::format("/proc/{}/ns/pid", pod.pausePid) : ""}})
      if (!path.empty()) list.push_back({{"type", type}, {"path", path}});
  return printInfo(
      {{"sandboxID", pod.id},
       {"pid", hostPid},
       {"nodePid", pod.pausePid},
       {"image", ""},
       {"cgroup", pod.cgroup},
       {"runtimeHandler", pod.runtimeHandler},
       {"addresses", pod.addresses},
       {"node", pod.node},
       {"config",
        {{"metadata",
          {{"name", config.name}, {"namespace", config.nameSpace}, {"uid", config.uid}, {"attempt", config.attempt}}},
         {"hostname", config.hostname},
         {"log_directory", config.logDirectory},
         {"labels", config.labels},
         {"annotations", config.annotations},
         {"linux", std::move(linux)}}},
       {"runtimeSpec", std::move(spec)}});
}

}  // namespace userpod::cri

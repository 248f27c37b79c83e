// linux.namespaces: every kind that matters is named. An omitted one would be that of whoever runs the OCI runtime.
#include <fmt/core.h>

#include "daemon/oci/spec.hpp"

namespace userpod::oci {
namespace {

Json joinPid(pid_t pid) {
  return {{"type", "pid"}, {"path", fmt::format("/proc/{}/ns/pid", pid)}};
}

// POD is whatever the pod has; one without a shared namespace gives each container its own.
Result<Json> podPidNamespace(const PodRecord& pod) {
  if (pod.config.security.namespaces.pid == NamespaceMode::Node) return joinPid(1);
  if (pod.pausePid <= 0) return Json{{"type", "pid"}};
  auto start = processStartTime(pod.pausePid);
  if (!start || *start != pod.pauseStart)
    return Error(Code::InvalidState,
                 "pod " + pod.id + " has lost its shared PID namespace: it takes no new containers");
  return joinPid(pod.pausePid);
}

Result<Json> pidNamespace(const SpecInput& input) {
  const auto& options = input.container.config.security.namespaces;
  switch (options.pid) {
    case NamespaceMode::Node:
      return joinPid(1);
    case NamespaceMode::Target:
      if (input.targetPid <= 0)
        return Error(Code::InvalidState, "target_id: container " + options.targetId.substr(0, 64) + " is not running");
      return joinPid(input.targetPid);
    case NamespaceMode::Pod:
      return podPidNamespace(input.pod);
    case NamespaceMode::Container:
      break;
  }
  return Json{{"type", "pid"}};
}

}  // namespace

Status addNamespaces(SpecParts& parts) {
  const auto& paths = parts.input.namespaces;
  if (paths.network.empty() || paths.ipc.empty() || paths.uts.empty())
    return Error(Code::Internal, "pod " + parts.input.pod.id + " has no namespaces to join");
  USERPOD_TRY(pid, pidNamespace(parts.input));
  // No user namespace: the node's is the one that everything is in.
  parts.spec["linux"]["namespaces"] = Json::array({{{"type", "mount"}},
                                                   {{"type", "cgroup"}},
                                                   {{"type", "network"}, {"path", paths.network}},
                                                   {{"type", "ipc"}, {"path", paths.ipc}},
                                                   {{"type", "uts"}, {"path", paths.uts}},
                                                   pid});
  return {};
}

}  // namespace userpod::oci

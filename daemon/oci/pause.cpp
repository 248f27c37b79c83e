// The first process of a PID namespace that a pod's containers share: userpod-pause, in a cgroup of its own.
#include <fmt/format.h>
#include <unistd.h>

#include "daemon/oci/messages.hpp"
#include "daemon/oci/runtime_impl.hpp"
#include "daemon/sys/util.hpp"

namespace userpod::oci {
namespace {

constexpr std::chrono::seconds kPauseTime{30};  // it takes 2 ms; this only bounds a machine that hangs

}  // namespace

std::string pauseCgroup(const PodRecord& pod) {
  return pod.cgroup + "/" + pod.id;
}

bool sharesPid(const PodConfig& config) {
  return config.security.namespaces.pid == NamespaceMode::Pod;
}

Result<PauseProcess> RuntimeImpl::startPause(const PodRecord& pod, const network::PodNamespaces& namespaces) {
  const auto& security = pod.config.security;
  if (::access(pause_.c_str(), X_OK) < 0)
    return sysError("a PID namespace of the pod needs userpod-pause, which is not installed: " + pause_)
        .as(Code::HelperMissing);
  USERPOD_TRY(cgroup, node_.makeCgroup(pauseCgroup(pod)));
  std::string root = paths_.node + "/empty";
  USERPOD_CHECK(makeDirectories(root, 0700));
  SpawnOptions options;
  options.argv = {pause_,
                  root,
                  std::to_string(security.runAsUser.value_or(0)),
                  std::to_string(security.runAsGroup.value_or(0)),
                  fmt::format("{}", fmt::join(security.supplementalGroups, ",")),
                  namespaces.network,
                  namespaces.ipc,
                  namespaces.uts};
  options.environment = toolEnvironment(paths_);
  options.cgroup = cgroup.get();
  options.cgroupNamespace = node_.cgroupNamespace.get();
  options.directory = "/";
  USERPOD_TRY(output, run(std::move(options), kPauseTime, 4096));
  auto pid = output.status.code == 0 ? parseNumber(output.out) : std::nullopt;
  if (!pid || *pid <= 0)
    return Error(Code::RuntimeFailed, "the pod's shared PID namespace (userpod-pause): " + plainMessage(output.err));
  PauseProcess process;
  process.pid = *pid;
  USERPOD_TRY(start, processStartTime(*pid));
  process.start = start;
  USERPOD_TRY(pidfd, openPidfd(*pid));
  process.pidfd = std::move(pidfd);
  return process;
}

}  // namespace userpod::oci

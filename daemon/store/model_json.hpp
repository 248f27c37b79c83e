// The model as JSON values, for the live store. Kept as CBOR, because environment values may hold any bytes.
#pragma once

#include <nlohmann/json.hpp>
#include <optional>

#include "daemon/store/model.hpp"

namespace nlohmann {
template <typename T>
struct adl_serializer<std::optional<T>> {
  static void to_json(json& value, const std::optional<T>& optional) {
    if (optional)
      value = *optional;
    else
      value = nullptr;
  }
  static void from_json(const json& value, std::optional<T>& optional) {
    if (value.is_null())
      optional.reset();
    else
      optional = value.get<T>();
  }
};
}  // namespace nlohmann

namespace userpod {

// Fields absent in a record written by an older version keep their defaults.
NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE_WITH_DEFAULT(SecurityProfile, type, localhostRef)
NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE_WITH_DEFAULT(SelinuxOptions, user, role, type, level)
NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE_WITH_DEFAULT(DnsConfig, servers, searches, options)
NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE_WITH_DEFAULT(PortMapping, protocol, containerPort, hostPort, hostIp)
NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE_WITH_DEFAULT(Resources, cpuPeriod, cpuQuota, cpuShares, memoryLimit, memorySwapLimit,
                                                oomScoreAdj, cpusetCpus, cpusetMems, hugepageLimits, unified)
NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE_WITH_DEFAULT(NamespaceOptions, network, pid, ipc, targetId)
NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE_WITH_DEFAULT(PodSecurity, namespaces, runAsUser, runAsGroup, supplementalGroups,
                                                readonlyRootfs, privileged, seccomp, apparmor, selinux)
NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE_WITH_DEFAULT(PodConfig, name, uid, nameSpace, attempt, hostname, logDirectory, dns,
                                                ports, labels, annotations, cgroupParent, sysctls, security, overhead,
                                                resources)
NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE_WITH_DEFAULT(PodRecord, id, config, origin, state, runtimeHandler, createdAt,
                                                addresses, node, cgroup, pausePid, pauseStart, endedWithNode)
NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE_WITH_DEFAULT(MountConfig, containerPath, hostPath, readonly, recursiveReadOnly,
                                                selinuxRelabel, propagation, image, imageSubPath, imageId)
NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE_WITH_DEFAULT(DeviceConfig, containerPath, hostPath, permissions)
NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE_WITH_DEFAULT(CapabilityConfig, add, drop, addAmbient)
NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE_WITH_DEFAULT(ContainerSecurity, capabilities, privileged, namespaces, runAsUser,
                                                runAsUsername, runAsGroup, supplementalGroups, strictGroups,
                                                readonlyRootfs, noNewPrivs, maskedPaths, readonlyPaths, seccomp,
                                                apparmor, selinux)
NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE_WITH_DEFAULT(ContainerConfig, name, attempt, image, userSpecifiedImage, command,
                                                args, workingDirectory, environment, mounts, devices, cdiDevices,
                                                labels, annotations, logPath, stdinOpen, stdinOnce, tty, resources,
                                                security, stopSignal)
NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE_WITH_DEFAULT(EffectiveUser, uid, gid, groups)
NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE_WITH_DEFAULT(ContainerRecord, id, podId, config, origin, state, imageId, imageName,
                                                layers, logPath, cgroup, processArgs, workingDirectory, user,
                                                stopSignal, pid, pidStart, monitorPid, createdAt, startedAt, finishedAt,
                                                exitCode, oomKills, reason, message)

}  // namespace userpod

// Pods: requests to PodConfig, records to answers. Pure functions.
#pragma once

#include "api.pb.h"
#include "daemon/network/network.hpp"
#include "daemon/store/model.hpp"
#include "daemon/sys/error.hpp"

namespace userpod::cri {

namespace v1 = ::runtime::v1;

// podLogs: the directory below which a pod without a log_directory gets one, by the name that kubelet would give it.
Result<PodConfig> toPodConfig(const v1::PodSandboxConfig& config, const std::string& podLogs);

// Whether CRI clients see it: whole, and not made over the bus.
bool visible(const PodRecord& pod);
// Visible, and all conditions of the filter hold.
bool matches(const v1::PodSandboxFilter& filter, const PodRecord& pod);

void fillItem(const PodRecord& pod, v1::PodSandbox* item);
void fillStatus(const PodRecord& pod, v1::PodSandboxStatus* status);
// JSON for people: the key "info" of a verbose status.
// As crictl inspectp shows it, with the keys of CRI-O and containerd: pid of the pod's first process as the host sees
// it (0 for most pods, which have none), runtimeSpec with what a specification of the pod would say, config.
std::string podInfo(const PodRecord& pod, pid_t hostPid, const network::PodNamespaces& namespaces);

// Whether `labels` has every pair of the selector.
template <typename Selector>
bool selects(const Selector& selector, const StringMap& labels) {
  for (const auto& [key, value] : selector) {
    auto found = labels.find(key);
    if (found == labels.end() || found->second != value) return false;
  }
  return true;
}

}  // namespace userpod::cri

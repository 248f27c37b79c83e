// Limits of a pod as a whole, where the cgroup is userpod's own. One that the caller gave is the caller's to limit.
#include "daemon/oci/limits.hpp"
#include "daemon/oci/oci.hpp"

namespace userpod::oci {
namespace {

constexpr std::int64_t kUsualPeriod = 100'000;

std::int64_t periodOf(const Resources& resources) {
  return resources.cpuPeriod > 0 ? resources.cpuPeriod : kUsualPeriod;
}

}  // namespace

Resources podLimits(const PodConfig& config) {
  Resources sum = config.resources.value_or(Resources());
  const Resources overhead = config.overhead.value_or(Resources());
  sum.cpuShares += overhead.cpuShares;
  if (sum.cpuQuota > 0 && overhead.cpuQuota > 0)
    sum.cpuQuota +=
        static_cast<std::int64_t>(static_cast<double>(overhead.cpuQuota) / static_cast<double>(periodOf(overhead)) *
                                  static_cast<double>(periodOf(sum)));
  if (sum.memoryLimit > 0) sum.memoryLimit += overhead.memoryLimit;
  if (sum.memorySwapLimit > 0) sum.memorySwapLimit += std::max(overhead.memorySwapLimit, overhead.memoryLimit);
  if (sum.memorySwapLimit == 0) sum.memorySwapLimit = -1;
  return sum;
}

Status limitPod(const NodeInside& node, const std::string& cgroup, const PodConfig& config,
                std::vector<std::string>& warnings) {
  if (!config.resources && !config.overhead) return {};
  Resources limits = podLimits(config);
  USERPOD_CHECK(dropUnenforceable(node.controllers, limits, warnings));
  USERPOD_CHECK(node.enableControllers(cgroup));
  USERPOD_TRY(enforced, updateResources(node, cgroup, {}, limits));
  (void)enforced;
  return {};
}

}  // namespace userpod::oci

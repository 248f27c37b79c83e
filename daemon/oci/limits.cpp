#include "daemon/oci/limits.hpp"

#include <fmt/core.h>

#include <algorithm>

#include "daemon/sys/util.hpp"

namespace userpod::oci {

bool hasController(const std::string& delegated, const std::string& controller) {
  auto names = split(delegated, ' ');
  return std::find(names.begin(), names.end(), controller) != names.end();
}

std::string noController(const std::string& what, const std::string& controller) {
  return fmt::format(
      "{} has no effect: the {} controller is not delegated to this user; `userpodctl doctor` tells how to delegate it",
      what, controller);
}

std::int64_t cpuWeight(std::int64_t shares) {
  return 1 + (std::clamp<std::int64_t>(shares, 2, 262144) - 2) * 9999 / 262142;
}

Status checkHugePages(const Resources& wanted) {
  for (const auto& [size, bytes] : wanted.hugepageLimits)
    if (bytes != 0)
      return Error(Code::NotSupported,
                   fmt::format("hugepage_limits[{}] is {}: systemd delegates the hugetlb controller to no "
                               "user; leave huge pages out",
                               size.substr(0, 64), bytes));
  return {};
}

Status dropUnenforceable(const std::string& delegated, Resources& limits, std::vector<std::string>& warnings) {
  USERPOD_CHECK(checkHugePages(limits));
  limits.hugepageLimits.clear();
  auto lacks = [&](const char* controller, bool wanted, const std::string& field) {
    bool missing = !hasController(delegated, controller);
    if (missing && wanted) warnings.push_back(noController(field, controller));
    return missing;
  };
  if (lacks("cpu", limits.cpuShares > 0, "cpu_shares")) limits.cpuShares = 0;
  if (lacks("cpu", limits.cpuQuota != 0, "cpu_quota")) limits.cpuQuota = limits.cpuPeriod = 0;
  if (lacks("cpuset", !limits.cpusetCpus.empty(), "cpuset_cpus")) limits.cpusetCpus.clear();
  if (lacks("cpuset", !limits.cpusetMems.empty(), "cpuset_mems")) limits.cpusetMems.clear();
  // A limit of swap alone is none: it is memory and swap together.
  if (lacks("memory", limits.memoryLimit > 0, "memory_limit_in_bytes") || limits.memoryLimit <= 0)
    limits.memoryLimit = limits.memorySwapLimit = 0;
  for (const auto& [file, value] : StringMap(limits.unified)) {
    USERPOD_TRY(controller, controllerOf(file, value));
    if (controller != "cgroup" && lacks(controller.c_str(), true, "unified " + file)) limits.unified.erase(file);
  }
  return {};
}

Result<std::string> controllerOf(const std::string& file, const std::string& value) {
  auto dot = file.find('.');
  bool plain =
      dot != std::string::npos && dot > 0 && file.find('/') == std::string::npos && isUtf8(file) && isUtf8(value);
  if (!plain)
    return Error(Code::InvalidArgument, "unified has \"" + (isUtf8(file) ? file.substr(0, 128) : "?") +
                                            "\"; give the name of a cgroup v2 file, memory.high for one");
  std::string controller = file.substr(0, dot);
  if (controller == "hugetlb")
    return Error(Code::NotSupported, "unified has " + file + ": systemd delegates the hugetlb controller to no user");
  return controller;
}

}  // namespace userpod::oci

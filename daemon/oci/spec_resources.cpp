// linux.resources and cgroupsPath. A limit without its controller is left out with a warning, never a failed create.
#include <fmt/core.h>

#include <algorithm>

#include "daemon/oci/spec.hpp"
#include "daemon/sys/util.hpp"

namespace userpod::oci {
namespace {

class Controllers {
 public:
  explicit Controllers(SpecInput& input) : input_(input), names_(split(input.controllers, ' ')) {}

  bool has(const std::string& name) const { return std::find(names_.begin(), names_.end(), name) != names_.end(); }
  // Whether a limit can be set; a warning when not.
  bool take(const std::string& controller, const std::string& what) {
    if (has(controller)) return true;
    input_.warnings.push_back(
        fmt::format("{} has no effect: the {} controller is not delegated to this user; see Delegate= in "
                    "systemd.resource-control(5)",
                    what, controller));
    return false;
  }

 private:
  SpecInput& input_;
  std::vector<std::string> names_;
};

void addCpu(Json& resources, const Resources& wanted, Controllers& controllers) {
  if (wanted.cpuShares > 0 && controllers.take("cpu", "cpu_shares")) resources["cpu"]["shares"] = wanted.cpuShares;
  if (wanted.cpuQuota != 0 && controllers.take("cpu", "cpu_quota")) {
    resources["cpu"]["quota"] = wanted.cpuQuota;
    if (wanted.cpuPeriod > 0) resources["cpu"]["period"] = wanted.cpuPeriod;
  }
  if (!wanted.cpusetCpus.empty() && controllers.take("cpuset", "cpuset_cpus"))
    resources["cpu"]["cpus"] = wanted.cpusetCpus;
  if (!wanted.cpusetMems.empty() && controllers.take("cpuset", "cpuset_mems"))
    resources["cpu"]["mems"] = wanted.cpusetMems;
}

void addMemory(Json& resources, const Resources& wanted, Controllers& controllers) {
  if (wanted.memoryLimit <= 0 || !controllers.take("memory", "memory_limit_in_bytes")) return;
  resources["memory"]["limit"] = wanted.memoryLimit;
  // Memory and swap together; not said: no swap, or the limit would only be where swapping begins.
  resources["memory"]["swap"] = wanted.memorySwapLimit != 0 ? wanted.memorySwapLimit : wanted.memoryLimit;
}

Status addHugePages(const Resources& wanted) {
  for (const auto& [size, bytes] : wanted.hugepageLimits)
    if (bytes != 0)
      return Error(Code::NotSupported,
                   fmt::format("hugepage_limits[{}] is {}: systemd delegates the hugetlb controller to no "
                               "user; leave huge pages out",
                               size.substr(0, 64), bytes));
  return {};
}

Status addUnified(Json& resources, const Resources& wanted, Controllers& controllers) {
  for (const auto& [file, value] : wanted.unified) {
    auto dot = file.find('.');
    bool plain =
        dot != std::string::npos && dot > 0 && file.find('/') == std::string::npos && isUtf8(file) && isUtf8(value);
    if (!plain)
      return Error(Code::InvalidArgument, "unified has \"" + (isUtf8(file) ? file.substr(0, 128) : "?") +
                                              "\"; give the name of a cgroup v2 file, memory.high for one");
    std::string controller = file.substr(0, dot);
    if (controller == "hugetlb")
      return Error(Code::NotSupported, "unified has " + file + ": systemd delegates the hugetlb controller to no user");
    if (controller == "cgroup" || controllers.take(controller, "unified " + file)) resources["unified"][file] = value;
  }
  return {};
}

}  // namespace

Status addResources(SpecParts& parts) {
  SpecInput& input = parts.input;
  parts.spec["linux"]["cgroupsPath"] = input.container.cgroup;
  Json resources = Json::object();
  Controllers controllers(input);
  if (input.container.config.resources) {
    const Resources& wanted = *input.container.config.resources;
    USERPOD_CHECK(addHugePages(wanted));
    addCpu(resources, wanted, controllers);
    addMemory(resources, wanted, controllers);
    USERPOD_CHECK(addUnified(resources, wanted, controllers));
  }
  bool pidsSaid = resources.contains("unified") && resources["unified"].contains("pids.max");
  if (input.pidsLimit > 0 && !pidsSaid && controllers.take("pids", "the limit of processes"))
    resources["pids"] = {{"limit", input.pidsLimit}};
  if (!resources.empty()) parts.spec["linux"]["resources"] = std::move(resources);
  return {};
}

}  // namespace userpod::oci

// linux.resources and cgroupsPath. A limit without its controller is left out with a warning, never a failed create;
// and it is taken out of what status shows.
#include "daemon/oci/limits.hpp"
#include "daemon/oci/spec.hpp"

namespace userpod::oci {
namespace {

class Limits {
 public:
  Limits(SpecInput& input, Resources& enforced) : input_(input), enforced_(enforced) {}

  void addCpu() {
    if (enforced_.cpuShares > 0 && take("cpu", "cpu_shares")) {
      json_["cpu"]["shares"] = enforced_.cpuShares;
      // The same number as an update would write, whatever the OCI runtime makes of the shares.
      json_["unified"]["cpu.weight"] = std::to_string(cpuWeight(enforced_.cpuShares));
    }
    if (enforced_.cpuQuota != 0 && take("cpu", "cpu_quota")) {
      json_["cpu"]["quota"] = enforced_.cpuQuota;
      if (enforced_.cpuPeriod > 0) json_["cpu"]["period"] = enforced_.cpuPeriod;
    }
    if (!has("cpu")) enforced_.cpuShares = enforced_.cpuQuota = enforced_.cpuPeriod = 0;
    if (!enforced_.cpusetCpus.empty() && take("cpuset", "cpuset_cpus")) json_["cpu"]["cpus"] = enforced_.cpusetCpus;
    if (!enforced_.cpusetMems.empty() && take("cpuset", "cpuset_mems")) json_["cpu"]["mems"] = enforced_.cpusetMems;
    if (!has("cpuset")) enforced_.cpusetCpus = enforced_.cpusetMems = "";
  }

  void addMemory() {
    if (enforced_.memoryLimit > 0 && take("memory", "memory_limit_in_bytes")) {
      json_["memory"]["limit"] = enforced_.memoryLimit;
      // Memory and swap together; not said: no swap, or the limit would only be where swapping begins.
      json_["memory"]["swap"] = enforced_.memorySwapLimit != 0 ? enforced_.memorySwapLimit : enforced_.memoryLimit;
    } else {
      enforced_.memoryLimit = enforced_.memorySwapLimit = 0;
    }
  }

  Status addUnified() {
    for (const auto& [file, value] : StringMap(enforced_.unified)) {
      USERPOD_TRY(controller, controllerOf(file, value));
      if (controller == "cgroup" || take(controller, "unified " + file))
        json_["unified"][file] = value;
      else
        enforced_.unified.erase(file);
    }
    return {};
  }

  void addPids() {
    bool said = json_.contains("unified") && json_["unified"].contains("pids.max");
    if (input_.pidsLimit > 0 && !said && take("pids", "the limit of processes"))
      json_["pids"] = {{"limit", input_.pidsLimit}};
  }

  Json& json() { return json_; }

 private:
  bool has(const std::string& controller) const { return hasController(input_.controllers, controller); }
  // Whether a limit can be set; a warning when not.
  bool take(const std::string& controller, const std::string& what) {
    if (has(controller)) return true;
    input_.warnings.push_back(noController(what, controller));
    return false;
  }

  SpecInput& input_;
  Resources& enforced_;
  Json json_ = Json::object();
};

}  // namespace

Status addResources(SpecParts& parts) {
  SpecInput& input = parts.input;
  parts.spec["linux"]["cgroupsPath"] = input.container.cgroup;
  Resources enforced = input.container.config.resources.value_or(Resources());
  USERPOD_CHECK(checkHugePages(enforced));
  enforced.hugepageLimits.clear();
  Limits limits(input, enforced);
  limits.addCpu();
  limits.addMemory();
  USERPOD_CHECK(limits.addUnified());
  limits.addPids();
  if (!limits.json().empty()) parts.spec["linux"]["resources"] = std::move(limits.json());
  if (!input.container.config.resources) return {};
  enforced.oomScoreAdj = parts.spec["process"]["oomScoreAdj"].get<std::int64_t>();
  parts.built.resources = std::move(enforced);
  return {};
}

}  // namespace userpod::oci

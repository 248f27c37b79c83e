// linux.resources and cgroupsPath. A limit without its controller is left out with a warning, never a failed create;
// and it is taken out of what status shows.
#include "daemon/oci/limits.hpp"
#include "daemon/oci/spec.hpp"

namespace userpod::oci {
namespace {

Json cpuLimits(const Resources& limits) {
  Json cpu = Json::object();
  if (limits.cpuShares > 0) cpu["shares"] = limits.cpuShares;
  if (limits.cpuQuota != 0) {
    cpu["quota"] = limits.cpuQuota;
    if (limits.cpuPeriod > 0) cpu["period"] = limits.cpuPeriod;
  }
  if (!limits.cpusetCpus.empty()) cpu["cpus"] = limits.cpusetCpus;
  if (!limits.cpusetMems.empty()) cpu["mems"] = limits.cpusetMems;
  return cpu;
}

// All of them have their controller.
Json limitsJson(const Resources& limits) {
  Json json = Json::object();
  if (auto cpu = cpuLimits(limits); !cpu.empty()) json["cpu"] = std::move(cpu);
  // The same number as an update would write, whatever the OCI runtime makes of the shares.
  if (limits.cpuShares > 0) json["unified"]["cpu.weight"] = std::to_string(cpuWeight(limits.cpuShares));
  // Memory and swap together; not said: no swap, or the limit would only be where swapping begins.
  if (limits.memoryLimit > 0)
    json["memory"] = {{"limit", limits.memoryLimit},
                      {"swap", limits.memorySwapLimit != 0 ? limits.memorySwapLimit : limits.memoryLimit}};
  for (const auto& [file, value] : limits.unified) json["unified"][file] = value;
  return json;
}

}  // namespace

Status addResources(SpecParts& parts) {
  SpecInput& input = parts.input;
  parts.spec["linux"]["cgroupsPath"] = input.container.cgroup;
  Resources enforced = input.container.config.resources.value_or(Resources());
  USERPOD_CHECK(dropUnenforceable(input.controllers, enforced, input.warnings));
  Json limits = limitsJson(enforced);
  if (input.pidsLimit > 0 && !enforced.unified.contains("pids.max")) {
    if (hasController(input.controllers, "pids"))
      limits["pids"] = {{"limit", input.pidsLimit}};
    else
      input.warnings.push_back(noController("the limit of processes", "pids"));
  }
  if (!limits.empty()) parts.spec["linux"]["resources"] = std::move(limits);
  if (!input.container.config.resources) return {};
  enforced.oomScoreAdj = parts.spec["process"]["oomScoreAdj"].get<std::int64_t>();
  parts.built.resources = std::move(enforced);
  return {};
}

}  // namespace userpod::oci

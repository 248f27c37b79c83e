#include "daemon/cri/resources.hpp"

#include <fmt/core.h>

#include <algorithm>
#include <limits>

#include "daemon/cri/fields.hpp"

namespace userpod::cri {
namespace {

constexpr std::int64_t kMost = std::numeric_limits<std::int64_t>::max();

Status checkCpuList(const std::string& field, const std::string& list) {
  if (list.size() > 4096 || list.find_first_not_of("0123456789,-") != std::string::npos)
    return invalidField(field, "is not a list of numbers and ranges; write it like 0-2,7");
  return {};
}

Status checkUnified(const std::string& field, const std::string& name, const std::string& value) {
  bool good =
      name.find('.') != std::string::npos && name.front() != '.' && std::all_of(name.begin(), name.end(), [](char c) {
        return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '.' || c == '_' ||
               c == '-';
      });
  if (!good || name.size() > 255)
    return invalidField(field, "has a key that is not a file of a cgroup, like memory.high");
  return checkText(field + "[" + name + "]", value, 4096);
}

}  // namespace

Result<Resources> toResources(std::string_view field, const v1::LinuxContainerResources& message) {
  auto at = [&](std::string_view name) { return fmt::format("{}.{}", field, name); };
  USERPOD_CHECK(checkRange(at("cpu_period"), message.cpu_period(), 0, kMost));
  USERPOD_CHECK(checkRange(at("cpu_shares"), message.cpu_shares(), 0, kMost));
  USERPOD_CHECK(checkRange(at("memory_limit_in_bytes"), message.memory_limit_in_bytes(), -1, kMost));
  USERPOD_CHECK(checkRange(at("memory_swap_limit_in_bytes"), message.memory_swap_limit_in_bytes(), -1, kMost));
  USERPOD_CHECK(checkRange(at("oom_score_adj"), message.oom_score_adj(), -1000, 1000));
  USERPOD_CHECK(checkCpuList(at("cpuset_cpus"), message.cpuset_cpus()));
  USERPOD_CHECK(checkCpuList(at("cpuset_mems"), message.cpuset_mems()));
  Resources resources;
  resources.cpuPeriod = message.cpu_period();
  resources.cpuQuota = message.cpu_quota();
  resources.cpuShares = message.cpu_shares();
  resources.memoryLimit = message.memory_limit_in_bytes();
  resources.memorySwapLimit = message.memory_swap_limit_in_bytes();
  resources.oomScoreAdj = message.oom_score_adj();
  resources.cpusetCpus = message.cpuset_cpus();
  resources.cpusetMems = message.cpuset_mems();
  for (const auto& limit : message.hugepage_limits()) {
    USERPOD_CHECK(checkWord(at("hugepage_limits.page_size"), limit.page_size()));
    resources.hugepageLimits[limit.page_size()] = limit.limit();
  }
  for (const auto& [name, value] : message.unified()) {
    USERPOD_CHECK(checkUnified(at("unified"), name, value));
    resources.unified[name] = value;
  }
  return resources;
}

void fillResources(const Resources& resources, v1::LinuxContainerResources* message) {
  message->set_cpu_period(resources.cpuPeriod);
  message->set_cpu_quota(resources.cpuQuota);
  message->set_cpu_shares(resources.cpuShares);
  message->set_memory_limit_in_bytes(resources.memoryLimit);
  message->set_memory_swap_limit_in_bytes(resources.memorySwapLimit);
  message->set_oom_score_adj(resources.oomScoreAdj);
  message->set_cpuset_cpus(resources.cpusetCpus);
  message->set_cpuset_mems(resources.cpusetMems);
  for (const auto& [size, limit] : resources.hugepageLimits) {
    auto* entry = message->add_hugepage_limits();
    entry->set_page_size(size);
    entry->set_limit(limit);
  }
  message->mutable_unified()->insert(resources.unified.begin(), resources.unified.end());
}

nlohmann::json resourcesInfo(const Resources& resources) {
  nlohmann::json info = nlohmann::json::object();
  for (auto [name, value] : {std::pair{"cpu_period", resources.cpuPeriod},
                             {"cpu_quota", resources.cpuQuota},
                             {"cpu_shares", resources.cpuShares},
                             {"memory_limit_in_bytes", resources.memoryLimit},
                             {"memory_swap_limit_in_bytes", resources.memorySwapLimit},
                             {"oom_score_adj", resources.oomScoreAdj}})
    if (value != 0) info[name] = value;
  if (!resources.cpusetCpus.empty()) info["cpuset_cpus"] = resources.cpusetCpus;
  if (!resources.cpusetMems.empty()) info["cpuset_mems"] = resources.cpusetMems;
  for (const auto& [size, limit] : resources.hugepageLimits)
    info["hugepage_limits"].push_back({{"page_size", size}, {"limit", limit}});
  for (const auto& [file, value] : resources.unified) info["unified"][file] = value;
  return info;
}

}  // namespace userpod::cri

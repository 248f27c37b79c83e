// Changing the limits of a container by the files of its cgroup: all of them, or none.
#include <fmt/core.h>

#include <cerrno>
#include <charconv>

#include "daemon/oci/limits.hpp"
#include "daemon/oci/oci.hpp"
#include "daemon/sys/log.hpp"
#include "daemon/sys/util.hpp"

namespace userpod::oci {
namespace {

constexpr std::int64_t kUsualPeriod = 100'000;

struct Setting {
  std::string field;  // of the request, for errors
  std::string controller;
  std::string file;
  std::string value;
};

void keepOrTake(std::int64_t& current, std::int64_t wanted) {
  if (wanted != 0) current = wanted;
}

Resources merge(Resources current, const Resources& wanted) {
  keepOrTake(current.cpuPeriod, wanted.cpuPeriod);
  keepOrTake(current.cpuQuota, wanted.cpuQuota);
  keepOrTake(current.cpuShares, wanted.cpuShares);
  keepOrTake(current.memoryLimit, wanted.memoryLimit);
  keepOrTake(current.memorySwapLimit, wanted.memorySwapLimit);
  if (!wanted.cpusetCpus.empty()) current.cpusetCpus = wanted.cpusetCpus;
  if (!wanted.cpusetMems.empty()) current.cpusetMems = wanted.cpusetMems;
  for (const auto& [file, value] : wanted.unified) current.unified[file] = value;
  return current;
}

// memory_swap_limit is memory and swap together, memory.swap.max is swap alone.
Result<std::string> swapMax(const Resources& merged) {
  if (merged.memorySwapLimit == 0) return std::string("0");
  if (merged.memorySwapLimit < 0) return std::string("max");
  if (merged.memorySwapLimit < merged.memoryLimit)
    return Error(Code::InvalidArgument,
                 fmt::format("memory_swap_limit_in_bytes, which is memory and swap together, is {}: less than "
                             "memory_limit_in_bytes, {}; give both",
                             merged.memorySwapLimit, merged.memoryLimit));
  return std::to_string(merged.memorySwapLimit - merged.memoryLimit);
}

Status addMemory(const Resources& wanted, const Resources& merged, std::vector<Setting>& settings) {
  if (wanted.memoryLimit < 0)
    return Error(Code::InvalidArgument, fmt::format("memory_limit_in_bytes is {}; give a number of bytes, or 0 to keep "
                                                    "the limit as it is",
                                                    wanted.memoryLimit));
  if (wanted.memoryLimit > 0)
    settings.push_back({"memory_limit_in_bytes", "memory", "memory.max", std::to_string(wanted.memoryLimit)});
  if ((wanted.memoryLimit == 0 && wanted.memorySwapLimit == 0) || merged.memoryLimit <= 0) return {};
  USERPOD_TRY(swap, swapMax(merged));
  settings.push_back({"memory_swap_limit_in_bytes", "memory", "memory.swap.max", swap});
  return {};
}

Result<std::vector<Setting>> settingsOf(const Resources& wanted, const Resources& merged) {
  USERPOD_CHECK(checkHugePages(wanted));
  std::vector<Setting> settings;
  if (wanted.cpuShares > 0)
    settings.push_back({"cpu_shares", "cpu", "cpu.weight", std::to_string(cpuWeight(wanted.cpuShares))});
  if (wanted.cpuQuota != 0 || wanted.cpuPeriod > 0)
    settings.push_back({"cpu_quota", "cpu", "cpu.max",
                        fmt::format("{} {}", merged.cpuQuota > 0 ? std::to_string(merged.cpuQuota) : "max",
                                    merged.cpuPeriod > 0 ? merged.cpuPeriod : kUsualPeriod)});
  if (!wanted.cpusetCpus.empty()) settings.push_back({"cpuset_cpus", "cpuset", "cpuset.cpus", wanted.cpusetCpus});
  if (!wanted.cpusetMems.empty()) settings.push_back({"cpuset_mems", "cpuset", "cpuset.mems", wanted.cpusetMems});
  USERPOD_CHECK(addMemory(wanted, merged, settings));
  for (const auto& [file, value] : wanted.unified) {
    USERPOD_TRY(controller, controllerOf(file, value));
    settings.push_back({"unified " + file, controller, file, value});
  }
  return settings;
}

// The kernel would make room by killing; kubelet wants an error instead.
Status checkUsage(const std::string& directory, const Setting& setting) {
  if (setting.file != "memory.max") return {};
  std::int64_t limit = 0;
  auto parsed = std::from_chars(setting.value.data(), setting.value.data() + setting.value.size(), limit);
  if (parsed.ec != std::errc() || parsed.ptr != setting.value.data() + setting.value.size()) return {};
  USERPOD_TRY(text, readFile(directory + "/memory.current", 64));
  auto used = std::strtoll(text.c_str(), nullptr, 10);
  if (limit >= used) return {};
  return Error(Code::InvalidArgument,
               fmt::format("{} is {}, below the {} bytes in use; free memory first", setting.field, limit, used));
}

// The files of one cgroup, as they were before.
class Changes {
 public:
  explicit Changes(std::string directory) : directory_(std::move(directory)) {}

  Status apply(const Setting& setting) {
    std::string path = directory_ + "/" + setting.file;
    auto before = readFile(path, 64 << 10);
    if (!before && before.error().sysErrno() == ENOENT && setting.file == "memory.swap.max" &&
        (setting.value == "0" || setting.value == "max"))
      return {};  // a kernel that counts no swap
    if (!before && before.error().sysErrno() == ENOENT)
      return Error(Code::InvalidArgument, setting.field + ": the cgroup has no file " + setting.file);
    if (!before) return std::move(before).error().wrap(setting.field);
    auto written = writeFile(path, setting.value);
    if (!written) {
      bool refused = written.error().sysErrno() == EINVAL || written.error().sysErrno() == ERANGE;
      auto error = std::move(written).error().wrap(
          fmt::format("{}: the kernel refuses \"{}\"", setting.field, setting.value.substr(0, 128)));
      return refused ? std::move(error).as(Code::InvalidArgument) : std::move(error);
    }
    before_.emplace_back(std::move(path), std::move(*before));
    return {};
  }

  // A file with a line a device or key takes each by a write of its own; an empty one takes an empty line.
  void undo() {
    for (auto file = before_.rbegin(); file != before_.rend(); ++file)
      for (const auto& line : split(trim(file->second), '\n'))
        if (auto status = writeFile(file->first, line + "\n"); !status)
          logWarning("a limit keeps its new value: {}", status.error());
  }

 private:
  std::string directory_;
  std::vector<std::pair<std::string, std::string>> before_;
};

}  // namespace

Result<Resources> updateResources(const NodeInside& node, const std::string& cgroup, const Resources& current,
                                  const Resources& wanted) {
  Resources merged = merge(current, wanted);
  USERPOD_TRY(settings, settingsOf(wanted, merged));
  std::string directory = node.cgroupRoot + cgroup;
  for (const auto& setting : settings) {
    if (setting.controller != "cgroup" && !hasController(node.controllers, setting.controller))
      return Error(Code::CgroupDelegationMissing, noController(setting.field, setting.controller));
    USERPOD_CHECK(checkUsage(directory, setting));
  }
  Changes changes(directory);
  for (const auto& setting : settings) {
    if (auto status = changes.apply(setting); !status) {
      changes.undo();
      return std::move(status).error().wrap("nothing is changed");
    }
    if (!wanted.unified.contains(setting.file)) merged.unified.erase(setting.file);  // an earlier word on it
  }
  return merged;
}

}  // namespace userpod::oci

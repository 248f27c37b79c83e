// Rows of what polling for figures costs.
#include <fmt/core.h>

#include <array>
#include <filesystem>
#include <thread>

#include "daemon/sys/cpu_time.hpp"
#include "daemon/sys/fd.hpp"
#include "tests/benchmark/rows.hpp"

namespace userpod::bench {
namespace {

constexpr unsigned kPolls = 20;
constexpr std::chrono::seconds kInterval{1};

// Of a container's cgroup, what a statistic is made of.
constexpr std::array kFiles = {"cpu.stat",        "cpu.pressure", "io.pressure",         "memory.current",
                               "memory.max",      "memory.stat",  "memory.swap.current", "memory.swap.max",
                               "memory.pressure", "pids.current"};

struct Poll {
  std::string name;
  std::vector<Result<std::size_t> (Client::*)()> calls;
};

const std::vector<Poll>& polls() {
  static const std::vector<Poll> list = {{"ListPodSandbox, ListContainers, ListContainerStats",
                                          {&Client::listPods, &Client::listContainers, &Client::listContainerStats}},
                                         {"ListPodSandboxStats", {&Client::listPodStats}},
                                         {"ListPodSandboxMetrics", {&Client::listPodMetrics}}};
  return list;
}

// Two levels below the root of the pods: those of containers.
std::vector<UniqueFd> containerCgroups(const std::string& cgroupRoot) {
  std::vector<UniqueFd> cgroups;
  std::error_code failed;
  for (const auto& pod : std::filesystem::directory_iterator(cgroupRoot + "/pods", failed))
    for (const auto& entry : std::filesystem::directory_iterator(pod.path(), failed)) {
      if (!entry.is_directory(failed)) continue;
      if (auto directory = openFile(entry.path(), O_PATH | O_DIRECTORY)) cgroups.push_back(std::move(*directory));
    }
  return cgroups;
}

Status readAllOf(const std::vector<UniqueFd>& cgroups) {
  std::array<char, 8192> text{};
  for (const auto& cgroup : cgroups)
    for (const char* name : kFiles) {
      UniqueFd file(::openat(cgroup.get(), name, O_RDONLY | O_CLOEXEC));
      if (file && ::read(file.get(), text.data(), text.size()) < 0) return sysError(std::string("read ") + name);
    }
  return {};
}

// The bare part is a thread that reads the same files as often, from its own sleep on: on some machines it is the
// waking that takes most of the time.
Status measurePoll(const Poll& poll, Client& client, const std::vector<UniqueFd>& cgroups, std::size_t containers,
                   Report& report) {
  USERPOD_TRY(before, daemonTime());
  std::chrono::nanoseconds bare{0};
  auto begin = std::chrono::steady_clock::now();
  for (unsigned number = 1; number <= kPolls; ++number) {
    USERPOD_CHECK(checkInterrupted());
    for (auto call : poll.calls)
      if (auto count = (client.*call)(); !count) return std::move(count).error();
    auto asleep = threadCpuTime();
    std::this_thread::sleep_until(begin + number * kInterval - kInterval / 2);
    USERPOD_CHECK(readAllOf(cgroups));
    bare += threadCpuTime() - asleep;
    std::this_thread::sleep_until(begin + number * kInterval);
  }
  USERPOD_TRY(after, daemonTime());
  double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  auto row = valueRow(fmt::format("daemon CPU, {} containers polled each second: {}", containers, poll.name),
                      (after - before) / seconds / 10, "%");
  row.bare.values.push_back(std::chrono::duration<double>(bare).count() / seconds * 100);
  report.print(row);
  return {};
}

}  // namespace

Status measurePolling(const Options& options, Client& client, const std::string& cgroupRoot, std::size_t containers,
                      Report& report) {
  auto cgroups = containerCgroups(cgroupRoot);
  for (const auto& poll : polls()) USERPOD_CHECK(measurePoll(poll, client, cgroups, containers, report));
  Row row{fmt::format("ListContainerStats, {} containers", containers), {}, {}};
  for (unsigned number = 0; number < options.samples; ++number) {
    USERPOD_CHECK(checkInterrupted());
    USERPOD_CHECK(inTurns(
        row, number, 1,
        [&](unsigned) -> Status {
          USERPOD_TRY(count, client.listContainerStats());
          if (count == containers) return {};
          return Error(Code::Internal, fmt::format("of {} containers, {} have figures", containers, count));
        },
        [&](unsigned) { return readAllOf(cgroups); }));
  }
  report.print(row);
  return {};
}

}  // namespace userpod::bench

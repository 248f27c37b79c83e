// Rows of what many pods cost at rest.
#include <dirent.h>
#include <fmt/core.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cctype>
#include <cstdlib>
#include <filesystem>
#include <memory>
#include <thread>

#include "daemon/sys/util.hpp"
#include "tests/benchmark/rows.hpp"

namespace userpod::bench {
namespace {

constexpr unsigned kMakers = 10;  // pods are made by so many callers at once
constexpr std::chrono::seconds kRest{20};
constexpr const char* kInner = "userpodd-inner";

// Of a field in kB; 0 without one.
double mebibytes(const std::string& text, const std::string& name) {
  return std::strtod(procField(text, name).c_str(), nullptr) / 1024;
}

Result<std::string> processNamed(const std::string& name) {
  std::error_code failed;
  for (const auto& entry : std::filesystem::directory_iterator("/proc", failed)) {
    std::string directory = entry.path();
    struct stat info{};
    if (!std::isdigit(static_cast<unsigned char>(directory[6])) || ::stat(directory.c_str(), &info) < 0 ||
        info.st_uid != ::getuid())
      continue;
    auto found = readFile(directory + "/comm");
    if (found && trim(*found) == name) return directory;
  }
  return Error(Code::NotReady, "no process " + name + " is seen: does userpod.service run?");
}

}  // namespace

// The process's own schedstat is of its first thread alone, and its stat counts in ticks.
Result<double> daemonTime() {
  USERPOD_TRY(process, processNamed(kInner));
  double sum = 0;
  std::error_code failed;
  for (const auto& entry : std::filesystem::directory_iterator(process + "/task", failed))
    if (auto times = readFile(entry.path().string() + "/schedstat")) sum += std::strtod(times->c_str(), nullptr) / 1e6;
  return sum;
}

Result<UniqueFd> openMemoryOf(const std::string& name) {
  USERPOD_TRY(process, processNamed(name));
  return openFile(process + "/smaps_rollup", O_RDONLY);
}

Result<DaemonMemory> daemonMemory(const UniqueFd& outer) {
  USERPOD_TRY(process, processNamed(kInner));
  USERPOD_TRY(inner, readFile(process + "/smaps_rollup"));
  if (::lseek(outer.get(), 0, SEEK_SET) < 0) return sysError("memory of userpodd");
  USERPOD_TRY(outside, readAll(outer.get(), 64 << 10));
  DaemonMemory memory;
  memory.outerRss = mebibytes(outside, "Rss");
  memory.outerPss = mebibytes(outside, "Pss");
  memory.rss = memory.outerRss + mebibytes(inner, "Rss");
  memory.pss = memory.outerPss + mebibytes(inner, "Pss");
  return memory;
}

Status PodRows::idle(Report& report) const {
  return printDaemon(report, "idle");
}

Status PodRows::printDaemon(Report& report, const std::string& when) const {
  USERPOD_TRY(before, daemonTime());
  std::this_thread::sleep_for(kRest);
  USERPOD_TRY(after, daemonTime());
  USERPOD_TRY(memory, daemonMemory(outerMemory_));
  report.print(valueRow("daemon RSS, " + when, memory.rss, "MiB"));
  report.print(valueRow("outer RSS of it, " + when, memory.outerRss, "MiB"));
  report.print(valueRow("daemon PSS, " + when, memory.pss, "MiB"));
  report.print(valueRow("outer PSS of it, " + when, memory.outerPss, "MiB"));
  report.print(
      valueRow("daemon CPU at rest, " + when, (after - before) / std::chrono::duration<double>(kRest).count(), "ms/s"));
  return {};
}

Status PodRows::printMonitors(Report& report, const std::string& when) const {
  Row monitors{"conmon PSS a container, " + when, {}, {}, "MiB"};
  std::error_code failed;
  for (const auto& entry : std::filesystem::directory_iterator(cgroupRoot_ + "/mon", failed)) {
    auto pids = readFile(entry.path().string() + "/cgroup.procs");
    double sum = 0;
    for (const auto& pid : pids ? split(*pids, '\n') : std::vector<std::string>())
      if (auto rollup = readFile("/proc/" + pid + "/smaps_rollup"); !pid.empty() && rollup)
        sum += mebibytes(*rollup, "Pss");
    if (sum > 0) monitors.product.values.push_back(sum);
  }
  report.print(monitors);
  return {};
}

Status PodRows::printLists(Report& report, std::size_t pods, std::size_t containers) const {
  Row podRow{fmt::format("ListPodSandbox, {} pods", pods), {}, {}};
  Row containerRow{fmt::format("ListContainers, {} containers", containers), {}, {}};
  for (unsigned number = 0; number < options_.samples; ++number) {
    std::size_t seenPods = 0;
    std::size_t seenContainers = 0;
    auto list = [](std::size_t& seen, Result<std::size_t> count) -> Status {
      if (!count) return std::move(count).error();
      seen = *count;
      return {};
    };
    USERPOD_CHECK(timed(podRow.product, [&] { return list(seenPods, client_.listPods()); }));
    USERPOD_CHECK(timed(containerRow.product, [&] { return list(seenContainers, client_.listContainers()); }));
    if (seenPods < pods || seenContainers < containers)
      return Error(Code::Internal, fmt::format("listed are only {} pods and {} containers", seenPods, seenContainers));
  }
  report.print(podRow);
  report.print(containerRow);
  return {};
}

// To so many pods of one container each; then to so many containers in the pods that are there.
Status PodRows::grow(unsigned pods, unsigned containers) {
  Samples ignored;
  auto add = [&](unsigned pod, unsigned number) -> Status {
    USERPOD_TRY(id, client_.createContainer(pods_[pod], fmt::format("c{}", number), options_.pauseImage()));
    return client_.startContainer(id);
  };
  while (pods_.size() < pods || containers_ < containers) {
    USERPOD_CHECK(checkInterrupted());
    const auto first = static_cast<unsigned>(pods_.size());
    const unsigned newPods = std::min(kMakers, pods - std::min(pods, first));
    const unsigned batch = newPods > 0 ? newPods : std::min(kMakers, containers - containers_);
    pods_.resize(first + newPods);
    USERPOD_CHECK(timedTogether(ignored, batch, [&](unsigned index) -> Status {
      if (newPods == 0) return add((containers_ + index) % first, containers_ + index);
      USERPOD_TRY(pod, client_.runPod(fmt::format("many-{}", first + index)));
      pods_[first + index] = pod;
      return add(first + index, 0);
    }));
    containers_ += batch;
  }
  return {};
}

Status PodRows::withPods(Report& report) {
  for (unsigned pods : options_.pods) {
    std::string when = fmt::format("{} pods", pods);
    USERPOD_CHECK(grow(pods, pods));
    USERPOD_CHECK(printDaemon(report, when));
    USERPOD_CHECK(printMonitors(report, when));
    USERPOD_CHECK(printLists(report, pods, containers_));
    USERPOD_CHECK(measurePolling(options_, client_, cgroupRoot_, containers_, report));
  }
  if (options_.containers > containers_ && !pods_.empty()) {
    USERPOD_CHECK(grow(static_cast<unsigned>(pods_.size()), options_.containers));
    USERPOD_CHECK(printLists(report, pods_.size(), containers_));
    USERPOD_CHECK(measurePolling(options_, client_, cgroupRoot_, containers_, report));
  }
  return client_.removeAll();
}

}  // namespace userpod::bench

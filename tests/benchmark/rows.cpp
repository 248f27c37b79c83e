#include "tests/benchmark/rows.hpp"

#include <dirent.h>
#include <fmt/core.h>
#include <signal.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cctype>
#include <cstdlib>
#include <map>
#include <memory>
#include <thread>

#include "daemon/sys/util.hpp"
#include "tests/benchmark/bare_pull.hpp"

namespace userpod::bench {
namespace {

constexpr unsigned kWarmUp = 5;  // rounds that count for nothing
const std::vector<std::string> kTrue = {"/bin/true"};

// "Name:   value" in a file of /proc; empty without such a line.
std::string procField(const std::string& text, const std::string& name) {
  for (const auto& line : split(text, '\n'))
    if (line.starts_with(name + ":")) return std::string(trim(std::string_view(line).substr(name.size() + 1)));
  return {};
}

// Until the container's own program has its handler, the kernel drops the signal: it is the first process of its PID
// namespace. `crun start` does not wait for that.
Status waitForHandler(pid_t pid, int signal) {
  for (int attempt = 0; attempt < 5000; ++attempt) {
    USERPOD_TRY(status, readFile(fmt::format("/proc/{}/status", pid)));
    if ((std::strtoull(procField(status, "SigCgt").c_str(), nullptr, 16) >> (signal - 1) & 1) != 0) return {};
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  return Error(Code::Timeout, fmt::format("process {} of a container handles no signal {}: is it the pause image?", pid, signal));
}

class Lifecycle {
 public:
  Lifecycle(const Options& options, Client& client, BareSandboxes& sandboxes, BareContainers& containers)
      : client_(client), sandboxes_(sandboxes), containers_(containers), image_(options.pauseImage()) {
    for (const auto& name : kLifecycleRows) rows_[name].name = name;
  }

  Status round(unsigned number) {
    USERPOD_CHECK(makePod(number));
    USERPOD_CHECK(containerWithExec(number));
    USERPOD_CHECK(stopPodUnderContainer(number));
    return client_.removePod(pod_);
  }
  void forget() {
    for (auto& [name, row] : rows_) {
      row.samples.clear();
      row.bare.clear();
    }
  }
  void print(const Options& options, Report& report) const {
    for (const auto& name : kLifecycleRows)
      if (options.wants(name)) report.print(rows_.at(name));
  }

 private:
  Status makePod(unsigned number) {
    auto product = [&]() -> Status {
      USERPOD_TRY(pod, client_.runPod(fmt::format("bench-{}", number)));
      pod_ = pod;
      return {};
    };
    return inTurns(rows_["RunPodSandbox"], number, product, [&] { return sandboxes_.make(number); });
  }
  // Both containers of a round count as samples.
  Status makeContainer(unsigned number, unsigned bare) {
    USERPOD_CHECK(containers_.prepare(bare, {{"net", sandboxes_.pin(number, "net")},
                                             {"ipc", sandboxes_.pin(number, "ipc")},
                                             {"uts", sandboxes_.pin(number, "uts")}}));
    auto product = [&]() -> Status {
      USERPOD_TRY(id, client_.createContainer(pod_, fmt::format("c{}", bare), image_));
      container_ = id;
      return client_.startContainer(id);
    };
    USERPOD_CHECK(
        inTurns(rows_["CreateContainer+StartContainer"], number, product, [&] { return containers_.start(bare); }));
    USERPOD_TRY(pid, client_.containerPid(container_));
    USERPOD_CHECK(waitForHandler(pid, SIGTERM));
    return waitForHandler(containers_.process(), SIGTERM);
  }
  Status containerWithExec(unsigned number) {
    unsigned bare = 2 * number;
    USERPOD_CHECK(makeContainer(number, bare));
    USERPOD_CHECK(inTurns(
        rows_["ExecSync"], number, [&] { return client_.exec(container_, kTrue); },
        [&] { return containers_.exec(bare, kTrue); }));
    USERPOD_CHECK(inTurns(
        rows_["StopContainer"], number, [&] { return client_.stopContainer(container_); },
        [&] { return containers_.stop(bare); }));
    USERPOD_CHECK(client_.removeContainer(container_));
    return containers_.remove(bare);
  }
  Status stopPodUnderContainer(unsigned number) {
    unsigned bare = 2 * number + 1;
    USERPOD_CHECK(makeContainer(number, bare));
    auto bareStop = [&]() -> Status {
      USERPOD_CHECK(containers_.stop(bare));
      return sandboxes_.drop(number);
    };
    USERPOD_CHECK(inTurns(rows_["StopPodSandbox"], number, [&] { return client_.stopPod(pod_); }, bareStop));
    return containers_.remove(bare);
  }

  Client& client_;
  BareSandboxes& sandboxes_;
  BareContainers& containers_;
  const std::string image_;
  std::map<std::string, Row> rows_;
  Pod pod_;
  std::string container_;
};

// Pods with running containers, `perPod` in each but the last. Removed by Client::removeAll().
Status populate(Client& client, const std::string& image, unsigned containers, unsigned perPod) {
  Pod pod;
  for (unsigned number = 0; number < containers; ++number) {
    USERPOD_CHECK(checkInterrupted());
    if (number % perPod == 0) {
      USERPOD_TRY(made, client.runPod(fmt::format("many-{}", number / perPod)));
      pod = made;
    }
    USERPOD_TRY(id, client.createContainer(pod, fmt::format("c{}", number), image));
    USERPOD_CHECK(client.startContainer(id));
  }
  return {};
}

// Of a field in kB; 0 without one.
double mebibytes(const std::string& text, const std::string& name) {
  return std::strtod(procField(text, name).c_str(), nullptr) / 1024;
}

std::string readAt(int directory, const std::string& path) {
  auto file = openAt(directory, path, O_RDONLY);
  if (!file) return {};
  auto text = readAll(file->get(), 1 << 20);
  return text ? *text : std::string();
}

}  // namespace

bool Options::wants(const std::string& row) const {
  return rows.empty() || std::find(rows.begin(), rows.end(), row) != rows.end();
}

Status measureLifecycle(const Options& options, Client& client, BareSandboxes& sandboxes, BareContainers& containers,
                        Report& report) {
  Lifecycle lifecycle(options, client, sandboxes, containers);
  for (unsigned number = 0; number < kWarmUp + options.samples; ++number) {
    if (number == kWarmUp) lifecycle.forget();
    USERPOD_CHECK(checkInterrupted());
    USERPOD_CHECK(lifecycle.round(number));
  }
  lifecycle.print(options, report);
  return {};
}

Status measurePull(const Options& options, Client& client, const std::string& scratch, Report& report) {
  Row row{"PullImage", {}, {}};
  const std::string image = options.largeImage();
  USERPOD_TRY(layers, describeImage(image));
  for (unsigned number = 0; number < options.pullSamples; ++number) {
    USERPOD_CHECK(checkInterrupted());
    USERPOD_CHECK(client.removeImage(image));
    // Neither side writes back the other's pages, nor its own last ones.
    auto product = [&] { return client.pull(image); };
    auto bare = [&] { return barePull(layers, scratch); };
    auto alone = [](std::vector<double>& samples, auto& action) {
      ::sync();
      return timed(samples, action);
    };
    if (number % 2 == 0) USERPOD_CHECK(alone(row.samples, product));
    USERPOD_CHECK(alone(row.bare, bare));
    if (number % 2 != 0) USERPOD_CHECK(alone(row.samples, product));
    USERPOD_CHECK(removeTree(scratch));
  }
  report.print(row);
  return client.removeImage(image);
}

Status measureLists(const Options& options, Client& client, Report& report) {
  constexpr unsigned kPerPod = 25;
  USERPOD_CHECK(populate(client, options.pauseImage(), options.containers, kPerPod));
  Row row{fmt::format("ListContainers, {} containers", options.containers), {}, {}};
  for (unsigned number = 0; number < options.samples; ++number) {
    std::size_t listed = 0;
    USERPOD_CHECK(timed(row.samples, [&]() -> Status {
      USERPOD_TRY(count, client.listContainers());
      listed = count;
      return {};
    }));
    if (listed < options.containers) return Error(Code::Internal, fmt::format("ListContainers lists only {}", listed));
  }
  report.print(row);
  return client.removeAll();
}

Result<double> MemoryRows::daemonMiB(int proc) const {
  std::unique_ptr<DIR, int (*)(DIR*)> entries(::fdopendir(::openat(proc, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC)), ::closedir);
  if (!entries) return sysError("read /proc");
  double sum = 0;
  while (const dirent* entry = ::readdir(entries.get())) {
    std::string pid = entry->d_name;
    struct stat info {};
    // The own user is root in the node; the processes of others are nobody's there.
    if (!std::isdigit(static_cast<unsigned char>(pid[0])) || ::fstatat(proc, pid.c_str(), &info, 0) < 0 || info.st_uid != 0)
      continue;
    if (!trim(readAt(proc, pid + "/comm")).starts_with("userpodd")) continue;
    sum += mebibytes(readAt(proc, pid + "/status"), "VmRSS");
  }
  if (sum == 0) return Error(Code::Internal, "no process of the name userpodd is seen");
  return sum;
}

Status MemoryRows::printDaemon(Report& report, const std::string& when) const {
  USERPOD_TRY(nodeProc, openFile("/proc", O_RDONLY | O_DIRECTORY));
  USERPOD_TRY(inner, daemonMiB(nodeProc.get()));
  USERPOD_TRY(both, daemonMiB(hostProc_));
  report.print({"userpodd RSS, " + when, {inner}, {}, "MiB"});
  report.print({"userpodd outer RSS, " + when, {both - inner}, {}, "MiB"});
  return {};
}

Status MemoryRows::idle(Report& report) const { return printDaemon(report, "idle"); }

Status MemoryRows::withPods(Client& client, const std::string& cgroupRoot, Report& report) const {
  USERPOD_CHECK(populate(client, options_.pauseImage(), options_.pods, 1));
  USERPOD_CHECK(printDaemon(report, fmt::format("{} pods", options_.pods)));
  Row monitors{"conmon PSS a container", {}, {}, "MiB"};
  std::string monitorRoot = cgroupRoot + "/mon";
  std::unique_ptr<DIR, int (*)(DIR*)> entries(::opendir(monitorRoot.c_str()), ::closedir);
  while (const dirent* entry = entries ? ::readdir(entries.get()) : nullptr) {
    auto pids = readFile(monitorRoot + "/" + entry->d_name + "/cgroup.procs");
    if (!pids || entry->d_name[0] == '.') continue;
    double sum = 0;
    for (const auto& pid : split(*pids, '\n'))
      if (auto rollup = readFile("/proc/" + pid + "/smaps_rollup"); !pid.empty() && rollup) sum += mebibytes(*rollup, "Pss");
    if (sum > 0) monitors.samples.push_back(sum);
  }
  report.print(monitors);
  return client.removeAll();
}

}  // namespace userpod::bench

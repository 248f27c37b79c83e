#include "userns/drain.hpp"

#include <fmt/core.h>
#include <poll.h>
#include <signal.h>
#include <systemd/sd-daemon.h>

#include <algorithm>
#include <cerrno>

#include "daemon/sys/log.hpp"
#include "daemon/sys/util.hpp"
#include "userns/fork.hpp"

namespace userpod {
namespace {

using Clock = std::chrono::steady_clock;

struct Waiting {
  const StopTarget* target;
  UniqueFd pidfd;
  bool killed = false;
};

// Opens the process and makes sure that it is still the one on record. Null when it has ended.
UniqueFd openTarget(const StopTarget& target) {
  auto pidfd = openPidfd(target.pid);
  if (!pidfd) return {};
  auto start = processStartTime(target.pid);
  if (!start || *start != target.pidStart) return {};
  return std::move(*pidfd);
}

// A paused container would not see its signal. /proc tells the cgroup as the host has it, the mount here begins at the
// node's.
void thaw(pid_t pid, const std::string& nodeCgroup) {
  auto text = readFile(fmt::format("/proc/{}/cgroup", pid), 16 << 10);
  std::string prefix = "0::" + nodeCgroup + "/";
  std::string path;
  for (const auto& line : split(text ? *text : std::string(), '\n'))
    if (line.starts_with(prefix)) path = line.substr(prefix.size() - 1);
  for (; path.size() > 1; path.resize(path.rfind('/'))) {
    std::string file = "/sys/fs/cgroup" + path + "/cgroup.freeze";
    if (auto frozen = readFile(file, 16); frozen && trim(*frozen) == "1") (void)writeFile(file, "0");
  }
}

std::vector<Waiting> signalAll(const std::vector<StopTarget>& targets, const std::string& nodeCgroup) {
  std::vector<Waiting> list;
  for (const auto& target : targets) {
    UniqueFd pidfd = openTarget(target);
    if (!pidfd || !signalPidfd(pidfd.get(), target.signal)) continue;
    thaw(target.pid, nodeCgroup);
    logInfo("stopping {} with signal {}, grace {:.1f} s", target.name, target.signal,
            static_cast<double>(target.grace.count()) / 1000);
    list.push_back({&target, std::move(pidfd)});
  }
  return list;
}

double secondsSince(Clock::time_point begin) {
  return std::chrono::duration<double>(Clock::now() - begin).count();
}

// Until the next grace ends, at most a minute.
int timeToNext(const std::vector<Waiting>& list, Clock::time_point begin) {
  std::int64_t least = 60000;
  for (const auto& item : list) {
    if (item.killed) continue;
    auto left = std::chrono::ceil<std::chrono::milliseconds>(begin + item.target->grace - Clock::now());
    least = std::min<std::int64_t>(least, std::max<std::int64_t>(left.count(), 0));
  }
  return static_cast<int>(least);
}

int waitForAll(std::vector<Waiting> list) {
  auto begin = Clock::now();
  while (!list.empty()) {
    std::vector<pollfd> entries;
    for (const auto& item : list) entries.push_back({item.pidfd.get(), POLLIN, 0});
    if (::poll(entries.data(), entries.size(), timeToNext(list, begin)) < 0 && errno != EINTR) return 1;
    std::vector<Waiting> rest;
    for (std::size_t i = 0; i < list.size(); ++i) {
      Waiting& item = list[i];
      if (entries[i].revents != 0) {
        logInfo("{} ended after {:.1f} s", item.target->name, secondsSince(begin));
        continue;
      }
      if (!item.killed && Clock::now() >= begin + item.target->grace) {
        logWarning("{} did not end within its grace, killing it", item.target->name);
        (void)signalPidfd(item.pidfd.get(), SIGKILL);
        item.killed = true;
      }
      rest.push_back(std::move(item));
    }
    list = std::move(rest);
  }
  return 0;
}

// Told to systemd, which otherwise kills everything after the unit's TimeoutStopSec.
void askForTime(const std::vector<StopTarget>& targets) {
  std::chrono::milliseconds longest{0};
  for (const auto& target : targets) longest = std::max(longest, target.grace);
  constexpr std::chrono::seconds kAfterwards{15};  // for the kill, the monitors and the end of the namespaces
  auto needed = std::chrono::microseconds(longest + kAfterwards);
  sd_notify(
      0, fmt::format("EXTEND_TIMEOUT_USEC={}\nSTATUS=Stopping {} containers", needed.count(), targets.size()).c_str());
}

// conmon writes the container's last output and its exit after the process has gone.
void waitForMonitors(const Node& node) {
  std::string file = "/sys/fs/cgroup" + node.state().cgroup + "/mon/cgroup.events";
  for (int attempt = 0; attempt < 100; ++attempt) {
    auto text = readFile(file, 4096);
    if (!text || text->find("populated 1") == std::string::npos) return;
    ::poll(nullptr, 0, 20);
  }
}

}  // namespace

Status drainNode(const Node& node, const std::vector<StopTarget>& targets) {
  if (targets.empty()) return {};
  askForTime(targets);
  USERPOD_TRY(child, forkInside(node, {}, [&] { return waitForAll(signalAll(targets, node.state().cgroup)); }));
  USERPOD_TRY(status, child.wait());
  waitForMonitors(node);
  if (status.code != 0) return Error(Code::Internal, "the process that stops the containers failed");
  return {};
}

}  // namespace userpod

#include "daemon/stats/processes.hpp"

#include <dirent.h>
#include <fmt/core.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <charconv>

#include "daemon/stats/cgroup.hpp"
#include "daemon/sys/fd.hpp"
#include "daemon/sys/util.hpp"

namespace userpod::stats {
namespace {

constexpr std::size_t kMostProcesses = 64;  // that are looked at
constexpr std::size_t kMostBelow = 64;      // cgroups; a container with more of them is not counted
constexpr std::size_t kMostDescriptors = 4096;
constexpr std::size_t kMostText = 1U << 20;

struct Pids {
  std::uint64_t count = 0;
  std::vector<std::int32_t> first;
};

// One in a line. The kernel gives as much as fits, so it takes several reads.
void readPids(int directory, const char* name, Pids& pids) {
  UniqueFd file(::openat(directory, name, O_RDONLY | O_CLOEXEC));
  if (!file) return;
  std::array<char, 16384> buffer;
  std::int32_t pid = 0;
  for (std::size_t all = 0; all < kMostText;) {
    ssize_t size = ::read(file.get(), buffer.data(), buffer.size());
    if (size <= 0) return;
    all += static_cast<std::size_t>(size);
    for (char c : std::string_view(buffer.data(), static_cast<std::size_t>(size))) {
      if (c >= '0' && c <= '9' && pid < 1 << 24) pid = pid * 10 + (c - '0');
      if (c != '\n') continue;
      ++pids.count;
      if (pid > 0 && pids.first.size() < kMostProcesses) pids.first.push_back(pid);
      pid = 0;
    }
  }
}

std::vector<std::string> cgroupsBelow(int directory) {
  std::vector<std::string> names;
  std::unique_ptr<DIR, int (*)(DIR*)> entries(::fdopendir(::openat(directory, ".", O_RDONLY | O_CLOEXEC)), &::closedir);
  if (!entries) return names;
  while (const dirent* entry = ::readdir(entries.get()))
    if (entry->d_type == DT_DIR && entry->d_name[0] != '.' && names.size() < kMostBelow)
      names.emplace_back(entry->d_name);
  return names;
}

// As kernels count them since 6.2: without a look at each.
Figure openDescriptors(const std::string& process) {
  struct stat info{};
  if (::stat(("/proc/" + process + "/fd").c_str(), &info) < 0) return std::nullopt;
  return static_cast<std::uint64_t>(info.st_size);
}

struct Descriptors {
  std::uint64_t open = 0, sockets = 0;
};

// False: there are more than may be looked at, or they are not shown.
bool addDescriptors(std::int32_t pid, Descriptors& sum) {
  constexpr std::string_view kSocket = "socket:";
  std::unique_ptr<DIR, int (*)(DIR*)> entries(::opendir(fmt::format("/proc/{}/fd", pid).c_str()), &::closedir);
  if (!entries) return errno == ENOENT;  // it has ended
  std::array<char, kSocket.size()> target;
  while (const dirent* entry = ::readdir(entries.get())) {
    if (entry->d_name[0] == '.') continue;
    if (++sum.open > kMostDescriptors) return false;
    ssize_t size = ::readlinkat(::dirfd(entries.get()), entry->d_name, target.data(), target.size());
    if (size > 0 && std::string_view(target.data(), static_cast<std::size_t>(size)) == kSocket) ++sum.sockets;
  }
  return true;
}

void countDescriptors(const Pids& processes, ProcessFigures& into) {
  if (processes.count > processes.first.size()) return;
  Descriptors sum;
  bool all = true;
  for (auto pid : processes.first) all = all && addDescriptors(pid, sum);
  if (all) {
    into.descriptors = sum.open;
    into.sockets = sum.sockets;
    return;
  }
  static const bool counted = openDescriptors("self").value_or(0) > 0;
  if (!counted) return;
  into.descriptors = 0;
  for (auto pid : processes.first) *into.descriptors += openDescriptors(std::to_string(pid)).value_or(0);
}

}  // namespace

// Max open files            1024                 524288               files
Figure parseSoftFileLimit(std::string_view text) {
  constexpr std::string_view kName = "Max open files";
  auto begin = text.find(kName);
  if (begin == std::string_view::npos) return std::nullopt;
  auto line = text.substr(begin + kName.size());
  line = trim(line.substr(0, line.find('\n')));
  return parseNumber(line.substr(0, line.find(' ')));
}

ProcessFigures readProcesses(const std::string& cgroup, std::int32_t firstPid, Figure tasks) {
  ProcessFigures figures;
  UniqueFd directory(::open(cgroup.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!directory) return figures;
  Pids processes, threads;
  auto read = [&](const std::string& below) {
    readPids(directory.get(), (below + "cgroup.procs").c_str(), processes);
    if (!tasks) readPids(directory.get(), (below + "cgroup.threads").c_str(), threads);
  };
  read("");
  auto below = cgroupsBelow(directory.get());
  for (const auto& name : below) read(name + "/");
  auto stat = readFile(cgroup + "/cgroup.stat", 4096);
  bool all = !stat || parseDescendants(*stat).value_or(0) <= below.size();
  figures.threads = tasks;
  if (all) {
    figures.processes = processes.count;
    if (!tasks) figures.threads = threads.count;
    countDescriptors(processes, figures);
  }
  if (auto limits = readFile(fmt::format("/proc/{}/limits", firstPid), 8192); firstPid > 0 && limits)
    figures.softFileLimit = parseSoftFileLimit(*limits);
  return figures;
}

}  // namespace userpod::stats

// What is there of pods and containers, seen from the node, for a check. All of it on a worker.
#include <fmt/format.h>
#include <linux/magic.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <filesystem>

#include "daemon/core/core_impl.hpp"
#include "daemon/sys/util.hpp"
#include "userns/uplink.hpp"

namespace userpod::core {
namespace {

constexpr std::size_t kLongestProc = 4U << 20;

std::vector<std::string> processesIn(const std::string& cgroup) {
  auto text = readFile(cgroup + "/cgroup.procs", kLongestProc);
  if (!text || trim(*text).empty()) return {};
  return split(trim(*text), '\n');
}

// One that has just ended has none, and another finding.
bool isAstray(pid_t pid, const std::string& cgroup) {
  auto text = readFile(fmt::format("/proc/{}/cgroup", pid), 64U << 10);
  // Seen from the host's cgroup namespace: below the node's cgroup.
  return text && text->find(cgroup) == std::string::npos;
}

bool isPinned(const std::string& path) {
  struct statfs found{};
  return ::statfs(path.c_str(), &found) == 0 && found.f_type == NSFS_MAGIC;
}

SeenPath pathSight(const std::string& path, unsigned expected) {
  struct stat info{};
  if (::lstat(path.c_str(), &info) < 0) return {path, expected};
  return {path, expected, true, info.st_mode & 07777U, info.st_uid == ::geteuid()};
}

}  // namespace

bool isGone(pid_t pid, std::uint64_t start) {
  if (pid <= 0) return true;
  auto found = processStartTime(pid);
  if (found) return *found != start;
  return found.error().sysErrno() == ENOENT || found.error().sysErrno() == ESRCH;
}

std::vector<SeenCgroup> cgroupsWithIds(const std::string& root, const std::function<bool(const std::string&)>& isPod) {
  std::vector<SeenCgroup> found;
  std::error_code error;
  std::filesystem::recursive_directory_iterator entry(root, error);
  for (; !error && entry != std::filesystem::recursive_directory_iterator(); entry.increment(error)) {
    std::error_code gone;
    if (!entry->is_directory(gone)) continue;
    std::string id = idIn(entry->path().filename());
    if (id.empty()) continue;
    if (!isPod(id)) entry.disable_recursion_pending();
    std::string path = entry->path();
    found.push_back({path.substr(root.size()), std::move(id), processesIn(path).size()});
  }
  return found;
}

void CoreImpl::lookAtContainers(const Known& known, Seen& seen) const {
  for (const auto& [id, container] : known.containers) {
    const ContainerRecord& record = *container.record;
    if (record.state == ContainerRecord::State::Creating) continue;
    std::string directory = parts_.paths.data + "/containers/" + id;
    bool overlaid = pathExists(directory + "/upper");
    seen.roots[id] = overlaid || pathExists(directory + "/merged");
    if (overlaid) seen.overlaid.insert(id);
    if (record.state == ContainerRecord::State::Exited) continue;
    SeenProcess& process = seen.processes[id];
    process.alive = !isGone(record.pid, record.pidStart);
    process.inCgroup = process.alive && !isAstray(record.pid, record.cgroup);
    auto monitors = processesIn(node_.cgroupRoot + "/mon/" + id);
    process.monitored =
        std::find(monitors.begin(), monitors.end(), std::to_string(record.monitorPid)) != monitors.end();
    process.serverLost = !storage_->server(id);
    process.bundle = pathExists(parts_.paths.containerDirectory(id));
    process.exitFile = pathExists(parts_.paths.exits() + "/" + id);
  }
}

void CoreImpl::lookAtPods(const Known& known, Seen& seen) const {
  for (const auto& [id, pod] : known.pods) {
    const PodRecord& record = *pod.record;
    if (record.state != PodRecord::State::Ready) continue;
    auto spaces = network_->namespacesOf(record);
    for (const auto& [name, path] :
         {std::pair("network", spaces.network), std::pair("ipc", spaces.ipc), std::pair("uts", spaces.uts)})
      if (path.starts_with(parts_.paths.node + "/") && !isPinned(path)) seen.lostPins[id].emplace_back(name);
    if (record.pausePid > 0 && isGone(record.pausePid, record.pauseStart)) seen.lostPauses.insert(id);
  }
}

void CoreImpl::lookAtPaths(Seen& seen) const {
  const Paths& paths = parts_.paths;
  seen.bundles = namesIn(paths.runtime + "/containers");
  seen.podDirectories = namesIn(paths.runtime + "/pods");
  seen.pins = namesIn(paths.node + "/ns");
  seen.exitFiles = namesIn(paths.exits());
  constexpr unsigned kPrivate = 0700;
  constexpr unsigned kPassing = 0711;
  constexpr unsigned kFile = 0600;
  for (const auto& directory :
       {paths.runtime, paths.runtime + "/pods", paths.runtime + "/containers", paths.exits(), paths.data})
    seen.paths.push_back(pathSight(directory, kPrivate));
  for (const auto& directory : {paths.data + "/layers", paths.data + "/containers"})
    seen.paths.push_back(pathSight(directory, kPassing));
  for (const auto& file : {paths.imageDatabase(), paths.liveDatabase(), paths.criSocket()})
    seen.paths.push_back(pathSight(file, kFile));
  for (const auto& database : {paths.imageDatabase(), paths.liveDatabase()})
    if (pathExists(database + ".damaged"))
      seen.others.push_back({"database-set-aside", Finding::Severity::Warning, "file", database + ".damaged",
                             "a damaged database, in whose place an earlier start has begun a new one",
                             "userpodctl check --repair removes it", true});
}

void CoreImpl::lookAtDatabases(const CheckOptions& options, Seen& seen) const {
  const Paths& paths = parts_.paths;
  struct Database {
    std::string path;
    const char* mend;
    bool repairable;
  };
  const std::vector<Database> databases = {
      // Only the daemon's memory has what is needed to write it anew.
      {paths.liveDatabase(), "userpodctl check --repair", true},
      {paths.imageDatabase(),
       "systemctl --user restart userpod.service sets it aside and begins anew; containers run on, images have to be "
       "pulled again",
       false}};
  for (const auto& [path, mend, repairable] : databases)
    if (auto checked = store::checkDatabase(path, options.deep); !checked) {
      // The daemon has had it since its start.
      bool damaged = store::isDamage(checked.error()) || !pathExists(path);
      seen.others.push_back({damaged ? "database-damaged" : "database-unreadable", Finding::Severity::Error, "database",
                             path, checked.error().text(), damaged ? mend : store::kUnreadableMend,
                             damaged && repairable});
    }
  if (auto stored = store::LiveStore::read(paths.liveDatabase())) {
    seen.stored = std::move(*stored);
    seen.storedRead = true;
  }
}

void CoreImpl::lookAtParts(const Known& known, Seen& seen) {
  std::set<std::string> pods, containers;
  for (const auto& [id, pod] : known.pods) pods.insert(id);
  for (const auto& [id, container] : known.containers) containers.insert(id);
  auto add = [&](Findings findings) {
    seen.others.insert(seen.others.end(), std::make_move_iterator(findings.begin()),
                       std::make_move_iterator(findings.end()));
  };
  add(storage_->check(containers));
  add(network_->check(pods));
  auto images = images_->check();
  if (images)
    add(std::move(*images));
  else
    add({{"images-unreadable", Finding::Severity::Error, "database", parts_.paths.imageDatabase(),
          images.error().text(), "systemctl --user restart userpod.service", false}});
  auto uplink = readUplinkState(parts_.paths);
  if (uplink.phase == UplinkState::Phase::Down)
    add({{"uplink-down", Finding::Severity::Error, "network", "uplink", uplink.reason,
          "userpodctl doctor; journalctl --user -u userpod-node.service", false}});
}

void CoreImpl::lookAtMounts(Seen& seen) const {
  auto mounts = mountsBelow({parts_.paths.data, parts_.paths.runtime});
  seen.mountsRead = bool(mounts);
  if (mounts)
    seen.mounts = std::move(*mounts);
  else
    seen.others.push_back({"mounts-unreadable", Finding::Severity::Warning, "file", "/proc/self/mountinfo",
                           "no mount was looked at: " + mounts.error().text(), "userpodctl enter -- findmnt", false});
}

Seen CoreImpl::look(const Known& known, const CheckOptions& options) {
  Seen seen;
  lookAtPaths(seen);
  seen.runtimeStates = runtime_->containers();
  lookAtMounts(seen);
  seen.cgroups = cgroupsWithIds(node_.cgroupRoot, [&](const std::string& id) { return known.hasPod(id); });
  lookAtContainers(known, seen);
  lookAtPods(known, seen);
  lookAtDatabases(options, seen);
  lookAtParts(known, seen);
  return seen;
}

}  // namespace userpod::core

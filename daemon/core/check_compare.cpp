#include <fmt/format.h>

#include <algorithm>

#include "daemon/core/check.hpp"
#include "daemon/sys/util.hpp"

namespace userpod::core {
namespace {

using Severity = Finding::Severity;
using PodState = PodRecord::State;
using ContainerState = ContainerRecord::State;

constexpr const char* kRepair = "userpodctl check --repair";
constexpr std::size_t kIdLength = 64;

bool living(const ContainerRecord& container) {
  return container.state == ContainerState::Created || container.state == ContainerState::Running;
}

std::string nameOf(const ContainerRecord& container) {
  return fmt::format("container {} ({})", container.id.substr(0, 12), excerpt(container.config.name, 64));
}

class Comparison {
 public:
  Comparison(const Known& known, const Seen& seen, const Paths& paths) : known_(known), seen_(seen), paths_(paths) {}

  Findings run() {
    unknownThings();
    unknownMounts();
    unknownCgroups();
    for (const auto& [id, container] : known_.containers)
      if (!container.busy) oneContainer(*container.record);
    for (const auto& [id, pod] : known_.pods)
      if (!pod.busy) onePod(*pod.record);
    addresses();
    modes();
    if (seen_.storedRead) records();
    found_.insert(found_.end(), seen_.others.begin(), seen_.others.end());
    return std::move(found_);
  }

 private:
  void add(const char* code, Severity severity, const char* kind, const std::string& id, std::string text,
           std::string mend) {
    found_.push_back({code, severity, kind, id, std::move(text), std::move(mend), false});
  }
  void addMendable(const char* code, const char* kind, const std::string& id, std::string text) {
    found_.push_back({code, Severity::Warning, kind, id, std::move(text), kRepair, true});
  }
  bool hasAny(const std::string& id) const { return known_.hasPod(id) || known_.hasContainer(id); }

  void unknownThings();
  void unknownMounts();
  void unknownCgroups();
  void oneContainer(const ContainerRecord& container);
  void livingContainer(const ContainerRecord& container);
  void endedContainer(const ContainerRecord& container);
  void onePod(const PodRecord& pod);
  void addresses();
  void modes();
  void records();
  std::size_t mountsAt(const std::string& target) const {
    return static_cast<std::size_t>(
        std::count_if(seen_.mounts.begin(), seen_.mounts.end(), [&](auto& mount) { return mount.target == target; }));
  }
  std::string merged(const std::string& id) const { return paths_.data + "/containers/" + id + "/merged"; }

  const Known& known_;
  const Seen& seen_;
  const Paths& paths_;
  Findings found_;
};

void Comparison::unknownThings() {
  for (const auto& name : seen_.bundles)
    if (!known_.hasContainer(name))
      addMendable("bundle-unknown", "file", paths_.containerDirectory(name), "of a container that is gone");
  for (const auto& name : seen_.podDirectories)
    if (!known_.hasPod(name))
      addMendable("pod-directory-unknown", "file", paths_.podDirectory(name), "of a pod that is gone");
  for (const auto& name : seen_.pins)
    if (!known_.hasPod(name))
      addMendable("pin-unknown", "file", paths_.pin(name), "keeps namespaces of a pod that is gone");
  for (const auto& name : seen_.exitFiles)
    if (!known_.hasContainer(name))
      addMendable("exit-file-unknown", "file", paths_.exits() + "/" + name, "of a container that is gone");
  for (const auto& [id, handler] : seen_.runtimeStates)
    if (!known_.hasContainer(id))
      addMendable("runtime-state-unknown", "container", id,
                  fmt::format("the OCI runtime {} has a state of it, no record has it", handler));
}

void Comparison::unknownMounts() {
  std::string containers = paths_.data + "/containers/";
  std::string pods = paths_.runtime + "/pods/";
  std::set<std::string> told;
  for (const auto& mount : seen_.mounts) {
    const auto& target = mount.target;
    bool ofContainer = target.starts_with(containers);
    if (!ofContainer && !target.starts_with(pods)) continue;
    auto rest = target.substr((ofContainer ? containers : pods).size());
    auto id = rest.substr(0, rest.find('/'));
    if ((ofContainer ? known_.hasContainer(id) : known_.hasPod(id)) || !told.insert(target).second) continue;
    addMendable("mount-unknown", "mount", target,
                fmt::format("{} of a {} that is gone", mount.type, ofContainer ? "container" : "pod"));
  }
}

void Comparison::unknownCgroups() {
  for (const auto& [path, id, processes] : seen_.cgroups) {
    if (hasAny(id)) continue;
    bool monitor = path.starts_with("/mon/");
    bool server = path.starts_with("/fuse/");
    const char* code = monitor ? "monitor-unknown" : server ? "server-unknown" : "cgroup-unknown";
    const char* what = monitor ? "conmon" : server ? "fuse-overlayfs" : "a cgroup";
    addMendable(code, "cgroup", path,
                fmt::format("{} of a pod or container that is gone, {}", what,
                            processes == 0 ? "empty" : fmt::format("with {} processes", processes)));
  }
}

void Comparison::oneContainer(const ContainerRecord& container) {
  if (container.state == ContainerState::Creating) return;
  if (auto root = seen_.roots.find(container.id); root != seen_.roots.end() && !root->second)
    add("container-files-missing", Severity::Error, "container", container.id,
        fmt::format("{}: what it wrote is gone: {}/containers/{}", nameOf(container), paths_.data, container.id),
        "userpodctl rm --force " + container.id.substr(0, 12));
  if (mountsAt(merged(container.id)) > 1)
    add("mount-twice", Severity::Warning, "mount", merged(container.id),
        nameOf(container) + ": something is mounted over its root file system",
        "userpodctl enter -- umount " + merged(container.id));
  if (living(container))
    livingContainer(container);
  else
    endedContainer(container);
}

void Comparison::livingContainer(const ContainerRecord& container) {
  auto sight = seen_.processes.find(container.id);
  if (sight == seen_.processes.end()) return;
  const SeenProcess& seen = sight->second;
  std::string who = nameOf(container);
  std::string remove = "userpodctl rm --force " + container.id.substr(0, 12);
  auto error = [&](const char* code, const std::string& text) {
    add(code, Severity::Error, "container", container.id, who + ": " + text, remove);
  };
  if (seen.exitFile)
    addMendable("exit-unseen", "container", container.id, who + ": conmon has told its end, the record says it lives");
  else if (!seen.alive)
    addMendable("process-missing", "container", container.id,
                fmt::format("{}: it is said to live, but process {} of the node is not it", who, container.pid));
  if (seen.alive && !seen.inCgroup)
    error("process-astray", fmt::format("its process {} is not in its cgroup {}", container.pid, container.cgroup));
  if (seen.alive && !seen.exitFile && !seen.monitored) error("monitor-missing", "conmon, which watches it, has ended");
  if (seen.alive && seen.serverLost) error("server-missing", "fuse-overlayfs, which serves its files, has ended");
  if (!seen.bundle) error("bundle-missing", paths_.containerDirectory(container.id) + " is gone");
  if (seen_.mountsRead && seen_.overlaid.contains(container.id) && mountsAt(merged(container.id)) == 0)
    error("root-not-mounted", "nothing is mounted on " + merged(container.id));
}

void Comparison::endedContainer(const ContainerRecord& container) {
  std::string who = nameOf(container);
  if (seen_.overlaid.contains(container.id) && mountsAt(merged(container.id)) > 0)
    addMendable("mount-left", "container", container.id, who + " has ended, its root file system is still mounted");
  for (const auto& [id, handler] : seen_.runtimeStates)
    if (id == container.id)
      addMendable("runtime-state-left", "container", id, who + " has ended, the OCI runtime still has a state of it");
  auto cgroup = std::find_if(seen_.cgroups.begin(), seen_.cgroups.end(),
                             [&](const SeenCgroup& one) { return one.id == container.id; });
  if (cgroup != seen_.cgroups.end())
    addMendable("cgroup-left", "container", container.id,
                fmt::format("{} has ended, its cgroup {} is still there", who, cgroup->path));
  for (std::string_view reason : {"MonitorLost", "RootFilesystemLost", "NodeEnded"})
    if (container.reason == reason)
      add("container-lost", Severity::Info, "container", container.id,
          fmt::format("{}: {}", who, excerpt(container.message, 256)),
          "userpodctl rm " + container.id.substr(0, 12) + ", when it is not wanted any more");
}

void Comparison::onePod(const PodRecord& pod) {
  std::string who = fmt::format("pod {} ({})", pod.id.substr(0, 12), excerpt(pod.config.name, 64));
  std::string remove = "userpodctl rm --force " + pod.id.substr(0, 12);
  bool pinned = std::find(seen_.pins.begin(), seen_.pins.end(), pod.id) != seen_.pins.end();
  if (pod.state == PodState::NotReady && pinned)
    addMendable("pin-left", "pod", pod.id, who + " has ended, its namespaces are still kept");
  if (pod.state != PodState::Ready) return;
  if (auto lost = seen_.lostPins.find(pod.id); lost != seen_.lostPins.end())
    add("pin-missing", Severity::Error, "pod", pod.id,
        fmt::format("{}: nothing keeps its namespaces ({}): no container can join them", who,
                    fmt::join(lost->second, ", ")),
        remove);
  if (seen_.lostPauses.contains(pod.id))
    add("pause-missing", Severity::Error, "pod", pod.id, who + ": the process that kept its PID namespace has ended",
        remove);
  auto& directories = seen_.podDirectories;
  if (std::find(directories.begin(), directories.end(), pod.id) == directories.end())
    add("pod-directory-missing", Severity::Error, "pod", pod.id,
        fmt::format("{}: {} with its resolv.conf and hosts is gone", who, paths_.podDirectory(pod.id)), remove);
}

void Comparison::addresses() {
  std::map<std::string, std::string> holders;
  for (const auto& [id, pod] : known_.pods) {
    if (pod.busy || pod.record->state != PodState::Ready) continue;
    for (const auto& address : pod.record->addresses) {
      auto [holder, added] = holders.emplace(address, id);
      if (!added)
        add("address-twice", Severity::Error, "pod", id,
            fmt::format("pods {} and {} both have the address {}", holder->second.substr(0, 12), id.substr(0, 12),
                        address),
            "userpodctl rm --force " + id.substr(0, 12));
    }
  }
}

void Comparison::modes() {
  constexpr unsigned kOwner = 0700;
  for (const auto& path : seen_.paths) {
    if (!path.exists) {
      add("path-missing", Severity::Error, "file", path.path, "it was there when the daemon started",
          "systemctl --user restart userpod.service");
      continue;
    }
    if (!path.own) {
      add("owner-wrong", Severity::Error, "file", path.path, "it belongs to another user", "chown it to yourself");
      continue;
    }
    bool missing = (path.expected & kOwner & ~path.mode) != 0;
    if (missing || (path.mode & ~path.expected) != 0)
      addMendable("mode-wrong", "file", path.path,
                  fmt::format("its mode is {:04o}, {}; it must be {:04o}", path.mode,
                              missing ? "which keeps its owner out" : "open to others", path.expected));
  }
}

// By object: what is under way shows at one look, of another object each time.
void Comparison::records() {
  auto differ = [&](const std::string& id, const char* what) { addMendable("record-differs", "record", id, what); };
  std::set<std::string> stored;
  for (const auto& pod : seen_.stored.pods) {
    stored.insert(pod.id);
    auto known = known_.pods.find(pod.id);
    if (known == known_.pods.end())
      differ(pod.id, "live.db has it, the pod is gone");
    else if (!known->second.busy && known->second.record->state != pod.state)
      differ(pod.id, "live.db has another state of the pod");
  }
  for (const auto& container : seen_.stored.containers) {
    stored.insert(container.id);
    auto known = known_.containers.find(container.id);
    if (known == known_.containers.end()) {
      differ(container.id, "live.db has it, the container is gone");
      continue;
    }
    const auto& record = *known->second.record;
    if (!known->second.busy && (record.state != container.state || record.pid != container.pid))
      differ(container.id, "live.db has another state of the container");
  }
  for (const auto& [id, pod] : known_.pods)
    if (!pod.busy && !stored.contains(id)) differ(id, "live.db does not have the pod");
  for (const auto& [id, container] : known_.containers)
    if (!container.busy && !stored.contains(id)) differ(id, "live.db does not have the container");
}

}  // namespace

namespace {

template <typename Map>
bool movedIn(const Map& before, const Map& now, const std::string& id) {
  auto was = before.find(id);
  auto is = now.find(id);
  if (is == now.end()) return was != before.end();
  return is->second.busy || was == before.end() || was->second.record != is->second.record;
}

}  // namespace

bool hasMoved(const Known& before, const Known& now, const Finding& finding) {
  if (finding.kind == "pod") return movedIn(before.pods, now.pods, finding.id);
  if (finding.kind == "container") return movedIn(before.containers, now.containers, finding.id);
  return finding.kind == "record" &&
         (movedIn(before.pods, now.pods, finding.id) || movedIn(before.containers, now.containers, finding.id));
}

Findings compare(const Known& known, const Seen& seen, const Paths& paths) {
  return Comparison(known, seen, paths).run();
}

std::string idIn(const std::string& name) {
  if (name.size() < kIdLength || !isHex(name.substr(0, kIdLength))) return {};
  bool whole = name.size() == kIdLength || name.compare(kIdLength, 8, "-volume-") == 0;
  return whole ? name.substr(0, kIdLength) : std::string();
}

}  // namespace userpod::core

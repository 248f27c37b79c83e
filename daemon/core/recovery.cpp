// What a starting daemon finds: pods and containers of the one before it.
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>

#include "daemon/core/core_impl.hpp"
#include "daemon/sys/log.hpp"
#include "daemon/sys/util.hpp"

namespace userpod::core {
namespace {

bool isProcess(pid_t pid, std::uint64_t start) {
  auto found = pid > 0 ? processStartTime(pid) : Result<std::uint64_t>(Error(Code::Internal, "no process"));
  return found && *found == start;
}

// The commands of execs that a killed daemon has left behind: nobody reads their output, and their cgroups' names come
// again.
void endExecs(const NodeInside& node, const std::string& cgroup) {
  constexpr std::string_view kPrefix = "exec-";
  for (const auto& name : namesIn(node.cgroupRoot + cgroup)) {
    auto number = std::string_view(name).substr(std::min(name.size(), kPrefix.size()));
    if (!name.starts_with(kPrefix) || number.empty() ||
        number.find_first_not_of("0123456789") != std::string_view::npos)
      continue;
    if (auto removed = node.removeCgroup(cgroup + "/" + name); !removed) logWarning("{}", removed.error());
  }
}

// An empty file is all that a container can have written that never was started.
void removeEmptyFile(const std::string& path) {
  struct stat info{};
  if (!path.empty() && ::lstat(path.c_str(), &info) == 0 && S_ISREG(info.st_mode) && info.st_size == 0)
    ::unlink(path.c_str());
}

}  // namespace

Status CoreImpl::recover() {
  USERPOD_TRY(content, store_->load());
  for (const auto& pod : content.pods) recoverPod(pod);
  for (const auto& container : content.containers) recoverContainer(container);
  for (const auto& pod : content.pods)
    if (auto found = pods_.find(pod.id); found != pods_.end()) emitStep(pod.state, found->second);
  removeLeftovers();
  network_->recovered();
  publish(Change::Kind::Conditions, "");
  logInfo("{} pods and {} containers found, {} images", pods_.size(), containers_.size(), imageList_->size());
  return {};
}

void CoreImpl::recoverPod(const PodRecord& found) {
  if (found.state == PodRecord::State::Creating) {
    undoPod(found);
    noteStore(store_->removePod(found.id));
    return;
  }
  auto pod = std::make_shared<PodEntity>();
  PodRecord record = found;
  if (record.state == PodRecord::State::Ready && record.node != node_.instance) {
    record.state = PodRecord::State::NotReady;
    record.endedWithNode = true;
    record.pausePid = 0;
    noteStore(store_->putPod(record));
  }
  pod->stopping = record.state != PodRecord::State::Ready;
  if (!pod->stopping) pod->namespaces = network_->namespacesOf(record);
  auto hostname = readFile(parts_.paths.podDirectory(record.id) + "/hostname");
  pod->hostname = hostname ? std::string(trim(*hostname)) : record.id.substr(0, 12);
  pod->record = std::make_shared<const PodRecord>(record);
  podNames_[podNameKey(record.config)] = record.id;
  pods_[record.id] = pod;
  if (!pod->stopping && record.pausePid > 0) adoptPause(pod);
}

void CoreImpl::recoverContainer(const ContainerRecord& record) {
  auto pod = pods_.find(record.podId);
  if (pod == pods_.end() || record.state == ContainerRecord::State::Creating) {
    undoContainer(record, handlerOf(record));
    if (record.state == ContainerRecord::State::Creating) removeEmptyFile(record.logPath);
    noteStore(store_->removeContainer(record.id));
    return;
  }
  auto container = std::make_shared<ContainerEntity>();
  container->record = std::make_shared<const ContainerRecord>(record);
  containers_[record.id] = container;
  followLayer(record);
  containerNames_[containerNameKey(record.podId, record.config)] = record.id;
  pod->second->containers.insert(record.id);
  if (record.state == ContainerRecord::State::Exited) {
    // The daemon may have been killed between the exit and what follows it.
    container->exitSeen = true;
    container->operations.acquire([this, container] { releaseAfterExit(container); });
  } else if (pod->second->record->node == node_.instance) {
    adopt(container);
  } else {
    container->exitSeen = true;
    container->operations.acquire([this, container] { handleExit(container); });
  }
}

// A container of this node that was alive when last heard of.
void CoreImpl::adopt(const ContainerPointer& container) {
  const ContainerRecord& record = *container->record;
  endExecs(node_, record.cgroup);
  bool alive = isProcess(record.pid, record.pidStart);
  if (alive)
    if (auto pidfd = openPidfd(record.pid)) container->process = std::move(*pidfd);
  // A start that was cut off may have been done or not: the process says so.
  if (alive && record.state == ContainerRecord::State::Created && runtime_->started(handlerOf(record), record.pid)) {
    ContainerRecord started = record;
    started.state = ContainerRecord::State::Running;
    started.startedAt = nowNanos();
    commit(container, std::move(started));
  }
  if (isPaused(*container->record)) {
    ContainerRecord paused = *container->record;
    paused.paused = true;
    container->record = std::make_shared<const ContainerRecord>(std::move(paused));
  }
  auto server = storage_->server(container->record->id);
  container->rootLost = !server;
  if (pathExists(parts_.paths.exits() + "/" + container->record->id)) return exitFileSeen(container->record->id);
  if (alive) watchServer(container, std::move(server));
  // Its monitor may still be on its way to the exit file; by its cgroup it is known from another process of that
  // number.
  auto monitors = readFile(node_.cgroupRoot + "/mon/" + container->record->id + "/cgroup.procs", 4096);
  auto numbers = split(monitors ? trim(*monitors) : std::string_view(), '\n');
  if (std::find(numbers.begin(), numbers.end(), std::to_string(container->record->monitorPid)) != numbers.end())
    if (auto monitor = openPidfd(container->record->monitorPid)) container->monitor = std::move(*monitor);
  watchOom(container);
  if (container->monitor) return watchMonitor(container);
  monitorEnded(container);
}

// Things of a daemon that was killed between making one and writing it down, or the other way round; and of one whose
// store is lost.
void CoreImpl::removeLeftovers() {
  auto note = [](const Status& status) {
    if (!status) logWarning("left over from an earlier daemon: {}", status.error());
  };
  for (const auto& [id, handler] : runtime_->containers())
    if (!containers_.contains(id)) note(runtime_->remove(id, handler));
  removeUnknownCgroups();
  for (const auto& id : storage_->containers())
    if (!containers_.contains(id)) note(storage_->removeContainer(id));
  for (const auto& id : namesIn(parts_.paths.runtime + "/containers"))
    if (!containers_.contains(id)) note(removeTree(parts_.paths.containerDirectory(id)));
  auto pods = namesIn(parts_.paths.runtime + "/pods");
  auto pins = namesIn(parts_.paths.node + "/ns");
  pods.insert(pods.end(), pins.begin(), pins.end());
  for (const auto& id : pods)
    if (!pods_.contains(id)) {
      note(network_->tearDown(PodRecord{.id = id}));
      note(removeTree(parts_.paths.podDirectory(id)));
    }
  for (const auto& id : namesIn(parts_.paths.exits()))
    if (!containers_.contains(id)) note(removeTree(parts_.paths.exits() + "/" + id));
}

// Cgroups of pods, containers and monitors are named by their ids, wherever kubelet wanted them.
void CoreImpl::removeUnknownCgroups() {
  auto found = cgroupsWithIds(node_.cgroupRoot, [this](const std::string& id) { return pods_.contains(id); });
  for (const auto& [path, id, processes] : found) {
    if (pods_.contains(id) || containers_.contains(id)) continue;
    logWarning("cgroup {} belongs to no pod or container: what runs there is ended", path);
    if (auto removed = node_.removeCgroup(path); !removed) logWarning("{}", removed.error());
  }
}

}  // namespace userpod::core

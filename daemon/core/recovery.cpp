// What a starting daemon finds: pods and containers of the one before it.
#include <dirent.h>

#include <set>

#include "daemon/core/core_impl.hpp"
#include "daemon/sys/log.hpp"
#include "daemon/sys/util.hpp"

namespace userpod::core {
namespace {

// Field 22 of /proc/PID/stat; the second field, in parentheses, may hold anything.
std::uint64_t processStart(pid_t pid) {
  auto stat = readFile("/proc/" + std::to_string(pid) + "/stat");
  if (!stat) return 0;
  auto end = stat->rfind(')');
  if (end == std::string::npos) return 0;
  auto fields = split(trim(std::string_view(*stat).substr(end + 1)), ' ');
  return fields.size() > 19 ? std::strtoull(fields[19].c_str(), nullptr, 10) : 0;
}

std::vector<std::string> namesIn(const std::string& path) {
  std::vector<std::string> names;
  if (DIR* directory = ::opendir(path.c_str())) {
    while (const dirent* entry = ::readdir(directory))
      if (entry->d_name[0] != '.') names.emplace_back(entry->d_name);
    ::closedir(directory);
  }
  return names;
}

}  // namespace

Status CoreImpl::recover() {
  USERPOD_TRY(content, store_->load());
  for (const auto& pod : content.pods) recoverPod(pod);
  for (const auto& container : content.containers) recoverContainer(container);
  removeLeftovers();
  publish(Change::Kind::Conditions, "");
  logInfo("{} pods and {} containers found, {} images", pods_.size(), containers_.size(), imageList_.size());
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
    noteStore(store_->putPod(record));
  }
  pod->stopping = record.state != PodRecord::State::Ready;
  if (!pod->stopping) pod->namespaces = network_->namespacesOf(record.id, record.config);
  auto hostname = readFile(parts_.paths.podDirectory(record.id) + "/hostname");
  pod->hostname = hostname ? std::string(trim(*hostname)) : record.id.substr(0, 12);
  pod->record = std::make_shared<const PodRecord>(record);
  podNames_[podNameKey(record.config)] = record.id;
  pods_[record.id] = std::move(pod);
}

void CoreImpl::recoverContainer(const ContainerRecord& record) {
  auto pod = pods_.find(record.podId);
  if (pod == pods_.end() || record.state == ContainerRecord::State::Creating) {
    undoContainer(record, handlerOf(record));
    noteStore(store_->removeContainer(record.id));
    return;
  }
  auto container = std::make_shared<ContainerEntity>();
  container->record = std::make_shared<const ContainerRecord>(record);
  containers_[record.id] = container;
  containerNames_[containerNameKey(record.podId, record.config)] = record.id;
  pod->second->containers.insert(record.id);
  if (record.state == ContainerRecord::State::Exited) return;
  bool sameNode = pod->second->record->node == node_.instance;
  bool alive = sameNode && record.pid > 0 && processStart(record.pid) == record.pidStart;
  if (alive && !pathExists(parts_.paths.exits() + "/" + record.id)) {
    if (auto pidfd = openPidfd(record.pid)) container->process = std::move(*pidfd);
    if (auto monitor = openPidfd(record.monitorPid)) container->monitor = std::move(*monitor);
    // A killed start may have been done or not: the process that still waits in the runtime says so by its name.
    if (record.state == ContainerRecord::State::Created) {
      auto name = readFile("/proc/" + std::to_string(record.pid) + "/comm");
      if (name && trim(*name) != "crun" && !trim(*name).starts_with("runc")) {
        ContainerRecord started = record;
        started.state = ContainerRecord::State::Running;
        started.startedAt = nowNanos();
        commit(container, std::move(started));
      }
    }
    if (container->monitor) return watchMonitor(container);
    return monitorEnded(container);
  }
  container->exitSeen = true;
  container->operations.acquire([this, container] { handleExit(container); });
}

// Directories of a daemon that was killed between making one and writing it down, or the other way round.
void CoreImpl::removeLeftovers() {
  auto note = [](const Status& status) {
    if (!status) logWarning("left over from an earlier daemon: {}", status.error().text());
  };
  for (const auto& id : storage_->containers())
    if (!containers_.contains(id)) note(storage_->removeContainer(id));
  for (const auto& id : namesIn(parts_.paths.runtime + "/containers"))
    if (!containers_.contains(id)) note(removeTree(parts_.paths.containerDirectory(id)));
  for (const auto& id : namesIn(parts_.paths.runtime + "/pods"))
    if (!pods_.contains(id)) {
      note(network_->tearDown(id, {}));
      note(removeTree(parts_.paths.podDirectory(id)));
    }
  for (const auto& id : namesIn(parts_.paths.exits()))
    if (!containers_.contains(id)) note(removeTree(parts_.paths.exits() + "/" + id));
}

}  // namespace userpod::core

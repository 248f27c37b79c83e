#include "dbus/tree.hpp"

#include <algorithm>
#include <cstdlib>
#include <utility>

#include "daemon/sys/log.hpp"
#include "daemon/sys/util.hpp"
#include "dbus/front.hpp"
#include "dbus/options.hpp"

namespace userpod::bus {
namespace {

// Snapshots are sorted by id. nullptr: not there.
template <typename Record>
std::shared_ptr<const Record> findById(const std::vector<std::shared_ptr<const Record>>& list, const std::string& id) {
  auto found = std::lower_bound(list.begin(), list.end(), id,
                                [](const auto& record, const std::string& key) { return record->id < key; });
  return found != list.end() && (*found)->id == id ? *found : nullptr;
}

std::uint64_t nowMicros() {
  return static_cast<std::uint64_t>(nowNanos()) / 1000;
}

}  // namespace

Tree::Tree(sdbus::IConnection& connection, Front& front, core::Core& core, const core::Snapshot& snapshot)
    : connection_(connection),
      front_(front),
      core_(core),
      manager_(connection, front, core, makeManagerView(snapshot)) {
  for (const auto& record : snapshot.containers)
    if (isShown(*record)) containers_.emplace(record->id, makeContainer(*record));
  for (const auto& record : snapshot.pods) {
    auto inside = containersWith(&ContainerView::pod, sdbus::ObjectPath(podPath(record->id)));
    pods_.emplace(record->id, std::make_unique<PodObject>(connection_, front_,
                                                          makePodView(*record, core_.info().nodeCgroup, inside)));
  }
  std::map<std::string, std::vector<sdbus::ObjectPath>> users;
  for (const auto& [id, container] : containers_) users[container.imageId].emplace_back(containerPath(id));
  for (const auto& record : *snapshot.images) images_.emplace(record->id, makeImage(record, users[record->id]));
  for (const auto& record : snapshot.jobs)
    jobs_[record->id] = std::make_unique<JobObject>(connection_, front_, makeJobView(*record));
}

void Tree::apply(const core::Change& change) {
  const core::Snapshot& snapshot = *change.snapshot;
  attempt("show a change", [&] {
    switch (change.kind) {
      case core::Change::Kind::Pod:
        return syncPod(snapshot, change.id);
      case core::Change::Kind::Container:
        return syncContainer(snapshot, change.id);
      case core::Change::Kind::Image:
        return syncImages(snapshot);
      case core::Change::Kind::Job:
        return syncJob(snapshot, change.id);
      case core::Change::Kind::Conditions:
        return manager_.change(makeManagerView(snapshot));
    }
  });
}

void Tree::event(std::uint64_t time, std::string_view type, const std::string& path, const VariantMap& details) {
  attempt("send Event", [&] { manager_.emitEvent(time, std::string(type), sdbus::ObjectPath(path), details); });
}

void Tree::syncPod(const core::Snapshot& snapshot, const std::string& id) {
  auto record = findById(snapshot.pods, id);
  auto shown = pods_.find(id);
  std::string path = podPath(id);
  if (!record) {
    if (shown == pods_.end()) return;
    front_.objectLeaves(path);
    shown->second->withdraw();
    pods_.erase(shown);
    manager_.change(makeManagerView(snapshot));
    return event(nowMicros(), "pod-removed", path);
  }
  bool added = shown == pods_.end();
  std::string before = added ? "" : shown->second->view().state;
  auto inside = added ? containersWith(&ContainerView::pod, sdbus::ObjectPath(path)) : shown->second->view().containers;
  PodView view = makePodView(*record, core_.info().nodeCgroup, std::move(inside));
  std::string after = view.state;
  if (added) {
    auto object = std::make_unique<PodObject>(connection_, front_, view);
    object->announce();
    pods_.emplace(id, std::move(object));
  } else {
    shown->second->change(view);
  }
  manager_.change(makeManagerView(snapshot));
  if (added) event(view.createdAt, "pod-created", path);
  if (after == before) return;
  if (after == "ready") event(nowMicros(), "pod-ready", path);
  if (after == "notready") event(nowMicros(), "pod-stopped", path);
}

std::uint32_t Tree::hostPid(const ContainerRecord& record) const {
  if (record.pid == 0) return 0;
  auto pid = core_.hostPid(record.pid);
  if (pid) return static_cast<std::uint32_t>(*pid);
  logDebug("bus: host pid of container {}: {}", ofContainer(record.id), pid.error());
  return 0;
}

Tree::Container Tree::makeContainer(const ContainerRecord& record) {
  auto pid = static_cast<pid_t>(hostPid(record));
  auto view = makeContainerView(record, core_.info().nodeCgroup, pid);
  return {std::make_unique<ContainerObject>(connection_, front_, std::move(view)), record.podId, record.imageId,
          record.pid, record.pidStart};
}

void Tree::syncContainer(const core::Snapshot& snapshot, const std::string& id) {
  auto record = findById(snapshot.containers, id);
  auto shown = containers_.find(id);
  if (!record || !isShown(*record)) {
    if (shown == containers_.end()) return;
    front_.objectLeaves(containerPath(id));
    shown->second.object->withdraw();
    const Container last = std::move(shown->second);
    containers_.erase(shown);
    containerListsChanged(last.podId, last.imageId);
    manager_.change(makeManagerView(snapshot));
    return event(nowMicros(), "container-removed", containerPath(id));
  }
  if (shown == containers_.end()) {
    Container made = makeContainer(*record);
    made.object->announce();
    const ContainerView view = made.object->view();
    containers_.emplace(id, std::move(made));
    containerListsChanged(record->podId, record->imageId);
    manager_.change(makeManagerView(snapshot));
    event(view.createdAt, "container-created", containerPath(id));
    return containerSignals({}, view);
  }
  Container& entry = shown->second;
  const ContainerView before = entry.object->view();
  bool samePid = entry.nodePid == record->pid && entry.pidStart == record->pidStart;
  std::uint32_t pid = samePid ? before.pid : hostPid(*record);
  entry.nodePid = record->pid;
  entry.pidStart = record->pidStart;
  entry.object->change(makeContainerView(*record, core_.info().nodeCgroup, static_cast<pid_t>(pid)));
  manager_.change(makeManagerView(snapshot));
  containerSignals(before, entry.object->view());
}

void Tree::containerSignals(const ContainerView& before, const ContainerView& after) {
  ContainerObject& object = *containers_.at(after.id).object;
  std::string path = containerPath(after.id);
  if (after.startedAt != 0 && before.startedAt == 0) event(after.startedAt, "container-started", path);
  if (after.oomKills > before.oomKills) {
    attempt("send OomKilled", [&] { object.emitOomKilled(); });
    event(nowMicros(), "container-oom", path);
  }
  if (after.finishedAt == 0 || before.finishedAt != 0) return;
  attempt("send Exited", [&] { object.emitExited(after.exitCode, after.exitSignal, after.reason); });
  event(after.finishedAt, "container-exited", path,
        {{"exit-code", sdbus::Variant{after.exitCode}},
         {"exit-signal", sdbus::Variant{after.exitSignal}},
         {"reason", sdbus::Variant{after.reason}}});
}

std::vector<sdbus::ObjectPath> Tree::containersWith(sdbus::ObjectPath ContainerView::* member,
                                                    const sdbus::ObjectPath& path) const {
  std::vector<sdbus::ObjectPath> paths;
  for (const auto& [id, container] : containers_)
    if (container.object->view().*member == path) paths.emplace_back(containerPath(id));
  return paths;
}

void Tree::containerListsChanged(const std::string& podId, const std::string& imageId) {
  if (auto pod = pods_.find(podId); pod != pods_.end()) {
    PodView view = pod->second->view();
    view.containers = containersWith(&ContainerView::pod, sdbus::ObjectPath(podPath(podId)));
    pod->second->change(std::move(view));
  }
  if (auto image = images_.find(imageId); image != images_.end()) {
    ImageView view = image->second.object->view();
    view.usedBy = containersWith(&ContainerView::image, sdbus::ObjectPath(imagePath(imageId)));
    image->second.object->change(std::move(view));
  }
}

Tree::Image Tree::makeImage(std::shared_ptr<const ImageRecord> record, std::vector<sdbus::ObjectPath> usedBy) {
  auto object = std::make_unique<ImageObject>(connection_, front_, makeImageView(*record, std::move(usedBy)));
  return {std::move(object), std::move(record)};
}

// All of them, as a pull may take a name from another image; both lists are in one order.
void Tree::syncImages(const core::Snapshot& snapshot) {
  std::vector<std::pair<std::string, std::string>> events;
  auto shown = images_.begin();
  auto leave = [&] {
    std::string path = imagePath(shown->first);
    front_.objectLeaves(path);
    shown->second.object->withdraw();
    shown = images_.erase(shown);
    events.emplace_back("image-removed", std::move(path));
  };
  for (const auto& record : *snapshot.images) {
    while (shown != images_.end() && shown->first < record->id) leave();
    if (shown != images_.end() && shown->first == record->id) {
      if (auto& image = shown->second; image.record != record) {
        image.record = record;
        image.object->change(makeImageView(*record, image.object->view().usedBy));
      }
      ++shown;
      continue;
    }
    std::string path = imagePath(record->id);
    auto made = makeImage(record, containersWith(&ContainerView::image, sdbus::ObjectPath(path)));
    made.object->announce();
    images_.emplace_hint(shown, record->id, std::move(made));
    events.emplace_back("image-added", std::move(path));
  }
  while (shown != images_.end()) leave();
  manager_.change(makeManagerView(snapshot));
  for (const auto& [type, path] : events) event(nowMicros(), type, path);
}

void Tree::syncJob(const core::Snapshot& snapshot, const std::string& id) {
  auto number = static_cast<std::uint32_t>(std::strtoul(id.c_str(), nullptr, 10));
  auto found =
      std::find_if(snapshot.jobs.begin(), snapshot.jobs.end(), [&](const auto& job) { return job->id == number; });
  sdbus::ObjectPath path(jobPath(number));
  auto shown = jobs_.find(number);
  if (found == snapshot.jobs.end()) {
    if (shown == jobs_.end()) return;
    std::string result = shown->second->view().state;
    front_.objectLeaves(path);
    shown->second->withdraw();
    jobs_.erase(shown);
    return attempt("send JobRemoved", [&] { manager_.emitJobRemoved(number, path, result); });
  }
  JobView view = makeJobView(**found);
  bool wasOver = false;
  if (shown == jobs_.end()) {
    auto object = std::make_unique<JobObject>(connection_, front_, view);
    object->announce();
    shown = jobs_.emplace(number, std::move(object)).first;
    attempt("send JobNew", [&] { manager_.emitJobNew(number, path); });
  } else {
    wasOver = shown->second->view().over();
    shown->second->change(view);
  }
  if (!view.over() || wasOver) return;
  attempt("send Completed",
          [&] { shown->second->emitCompleted(view.state, view.errorName, view.errorMessage, jobResult(view.result)); });
}

std::vector<ListRow> Tree::listPods(const Filter& filter) const {
  std::vector<ListRow> rows;
  for (const auto& [id, object] : pods_) {
    const PodView& view = object->view();
    if ((!filter.state.empty() && view.state != filter.state) || !filter.fitsLabels(view)) continue;
    rows.emplace_back(sdbus::ObjectPath(podPath(id)),
                      propertyMap(view, [&](const char* name) { return filter.wants(name); }));
  }
  return rows;
}

std::vector<ListRow> Tree::listContainers(const Filter& filter) const {
  std::vector<ListRow> rows;
  for (const auto& [id, entry] : containers_) {
    const ContainerView& view = entry.object->view();
    if (!filter.state.empty() && view.state != filter.state) continue;
    if (!filter.pod.empty() && view.pod != filter.pod) continue;
    if (!filter.fitsLabels(view)) continue;
    rows.emplace_back(sdbus::ObjectPath(containerPath(id)),
                      propertyMap(view, [&](const char* name) { return filter.wants(name); }));
  }
  return rows;
}

std::vector<ListRow> Tree::listImages(const Filter& filter) const {
  std::vector<ListRow> rows;
  for (const auto& [id, image] : images_) {
    const ImageView& view = image.object->view();
    if (!filter.fitsLabels(view)) continue;
    rows.emplace_back(sdbus::ObjectPath(imagePath(id)),
                      propertyMap(view, [&](const char* name) { return filter.wants(name); }));
  }
  return rows;
}

}  // namespace userpod::bus

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
  for (const auto& record : snapshot.images) {
    auto users = containersWith(&ContainerView::image, sdbus::ObjectPath(imagePath(record->id)));
    images_.emplace(record->id, std::make_unique<ImageObject>(connection_, front_, makeImageView(*record, users)));
  }
  for (const auto& record : snapshot.jobs)
    jobs_[record->id].object = std::make_unique<JobObject>(connection_, front_, makeJobView(*record));
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
  logDebug("bus: host pid of container {}: {}", record.id, pid.error().text());
  return 0;
}

Tree::Container Tree::makeContainer(const ContainerRecord& record) {
  auto pid = static_cast<pid_t>(hostPid(record));
  auto view = makeContainerView(record, core_.info().nodeCgroup, pid);
  return {std::make_unique<ContainerObject>(connection_, front_, std::move(view)), record.pid, record.pidStart};
}

void Tree::syncContainer(const core::Snapshot& snapshot, const std::string& id) {
  auto record = findById(snapshot.containers, id);
  auto shown = containers_.find(id);
  if (!record || !isShown(*record)) {
    if (shown == containers_.end()) return;
    const ContainerView last = shown->second.object->view();
    front_.objectLeaves(containerPath(id));
    shown->second.object->withdraw();
    containers_.erase(shown);
    containerListsChanged(last.pod, last.image);
    manager_.change(makeManagerView(snapshot));
    return event(nowMicros(), "container-removed", containerPath(id));
  }
  if (shown == containers_.end()) {
    Container made = makeContainer(*record);
    made.object->announce();
    const ContainerView view = made.object->view();
    containers_.emplace(id, std::move(made));
    containerListsChanged(view.pod, view.image);
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

void Tree::containerListsChanged(const sdbus::ObjectPath& pod, const sdbus::ObjectPath& image) {
  for (const auto& [id, object] : pods_) {
    if (podPath(id) != pod) continue;
    PodView view = object->view();
    view.containers = containersWith(&ContainerView::pod, pod);
    object->change(std::move(view));
  }
  for (const auto& [id, object] : images_) {
    if (imagePath(id) != image) continue;
    ImageView view = object->view();
    view.usedBy = containersWith(&ContainerView::image, image);
    object->change(std::move(view));
  }
}

// All of them: a pull may take a name from another image.
void Tree::syncImages(const core::Snapshot& snapshot) {
  std::vector<std::pair<std::string, std::string>> events;
  std::map<std::string, std::shared_ptr<const ImageRecord>> records;
  for (const auto& record : snapshot.images) records.emplace(record->id, record);
  for (auto shown = images_.begin(); shown != images_.end();) {
    if (records.contains(shown->first)) {
      ++shown;
      continue;
    }
    std::string path = imagePath(shown->first);
    front_.objectLeaves(path);
    shown->second->withdraw();
    events.emplace_back("image-removed", path);
    shown = images_.erase(shown);
  }
  for (const auto& [id, record] : records) {
    auto shown = images_.find(id);
    if (shown != images_.end()) {
      shown->second->change(makeImageView(*record, shown->second->view().usedBy));
      continue;
    }
    std::string path = imagePath(id);
    auto view = makeImageView(*record, containersWith(&ContainerView::image, sdbus::ObjectPath(path)));
    auto object = std::make_unique<ImageObject>(connection_, front_, std::move(view));
    object->announce();
    images_.emplace(id, std::move(object));
    events.emplace_back("image-added", path);
  }
  manager_.change(makeManagerView(snapshot));
  for (const auto& [type, path] : events) event(nowMicros(), type, path);
}

// Units a second since the last change, smoothed by halves.
void Tree::jobRate(Job& job, JobView& view) const {
  auto now = std::chrono::steady_clock::now();
  double seconds = std::chrono::duration<double>(now - job.rateAt).count();
  if (view.over() || view.done <= job.rateDone || seconds <= 0) {
    view.rate = view.over() ? 0 : job.object->view().rate;
    return;
  }
  double rate = static_cast<double>(view.done - job.rateDone) / seconds;
  double last = static_cast<double>(job.object->view().rate);
  view.rate = static_cast<std::uint64_t>(last > 0 ? (rate + last) / 2 : rate);
  job.rateDone = view.done;
  job.rateAt = now;
}

void Tree::syncJob(const core::Snapshot& snapshot, const std::string& id) {
  auto number = static_cast<std::uint32_t>(std::strtoul(id.c_str(), nullptr, 10));
  auto found =
      std::find_if(snapshot.jobs.begin(), snapshot.jobs.end(), [&](const auto& job) { return job->id == number; });
  sdbus::ObjectPath path(jobPath(number));
  auto shown = jobs_.find(number);
  if (found == snapshot.jobs.end()) {
    if (shown == jobs_.end()) return;
    std::string result = shown->second.object->view().state;
    front_.objectLeaves(path);
    shown->second.object->withdraw();
    jobs_.erase(shown);
    return attempt("send JobRemoved", [&] { manager_.emitJobRemoved(number, path, result); });
  }
  JobView view = makeJobView(**found);
  bool wasOver = false;
  if (shown == jobs_.end()) {
    auto object = std::make_unique<JobObject>(connection_, front_, view);
    object->announce();
    shown = jobs_.emplace(number, Job{std::move(object), 0, std::chrono::steady_clock::now()}).first;
    attempt("send JobNew", [&] { manager_.emitJobNew(number, path); });
  } else {
    wasOver = shown->second.object->view().over();
    jobRate(shown->second, view);
    shown->second.object->change(view);
  }
  if (!view.over() || wasOver) return;
  attempt("send Completed", [&] {
    shown->second.object->emitCompleted(view.state, view.errorName, view.errorMessage, jobResult(view.result));
  });
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
  for (const auto& [id, object] : images_) {
    const ImageView& view = object->view();
    if (!filter.fitsLabels(view)) continue;
    rows.emplace_back(sdbus::ObjectPath(imagePath(id)),
                      propertyMap(view, [&](const char* name) { return filter.wants(name); }));
  }
  return rows;
}

}  // namespace userpod::bus

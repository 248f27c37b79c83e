// What the bus shows of a pod, container, image, job and the manager: one plain struct each, made from the core's
// records. Its field list gives the comparison for PropertiesChanged and the maps of the bulk reads. No environment,
// password or log line has a place here: every program of the session reads these.
#pragma once

#include <string>
#include <vector>

#include "daemon/core/core.hpp"
#include "dbus/compat.hpp"

namespace userpod::bus {

using Bytes = std::vector<std::uint8_t>;
using Address = sdbus::Struct<std::uint8_t, Bytes>;                                     // family, network order
using JobItem = sdbus::Struct<std::string, std::string, std::uint64_t, std::uint64_t>;  // digest, state, done, total
using ConditionRow = sdbus::Struct<std::string, bool, std::string, std::string>;        // type, ok, reason, message

enum class Kind { Const, Changes };

struct PodView {
  std::string id, name, nameSpace, uid;
  std::uint32_t attempt = 0;
  std::string origin;
  StringMap labels, annotations;
  std::string state;
  std::uint64_t createdAt = 0;  // microseconds since the epoch, as all times here
  std::string runtimeHandler;
  std::vector<Address> addresses;
  std::string networkMode, cgroupPath;
  std::vector<sdbus::ObjectPath> containers;

  template <typename Visitor>
  static void fields(Visitor&& visit);
};

struct ContainerView {
  std::string id, name;
  sdbus::ObjectPath pod, image;
  std::string imageRef, origin;
  StringMap labels, annotations;
  std::string state;
  std::uint32_t pid = 0;  // of the host
  std::int32_t exitCode = 0;
  std::uint32_t exitSignal = 0;
  std::string reason, message;
  std::uint64_t createdAt = 0, startedAt = 0, finishedAt = 0;
  std::uint32_t attempt = 0;
  std::vector<Bytes> command;
  Bytes workingDirectory;
  bool tty = false, stdinOpen = false;
  std::string logPath, cgroupPath;
  bool oomKilled = false;
  std::uint64_t oomKills = 0;  // not a property: tells one kill from the next

  template <typename Visitor>
  static void fields(Visitor&& visit);
};

struct ImageView {
  std::string id;
  std::vector<std::string> repoTags, repoDigests;
  std::uint64_t size = 0, createdAt = 0;
  std::string architecture, os, variant;
  StringMap labels;
  bool pinned = false;
  std::vector<sdbus::ObjectPath> usedBy;

  template <typename Visitor>
  static void fields(Visitor&& visit);
};

// What a job brought; empty until it is done.
struct JobResultView {
  std::string image;                // object path of a pull's
  bool pruned = false;              // then these, of a prune
  std::vector<std::string> images;  // ids
  std::uint64_t bytes = 0;
  bool checked = false;  // then these, of a check
  Findings findings;     // texts as the bus takes them

  bool operator==(const JobResultView&) const = default;
};

struct JobView {
  std::uint32_t id = 0;
  std::string type;
  std::vector<sdbus::ObjectPath> objects;
  std::string sender, state;
  bool cancelable = false;
  std::uint64_t startedAt = 0, finishedAt = 0;
  std::string stage;
  double progress = -1;
  std::uint64_t done = 0, total = 0;
  std::string unit;
  std::uint64_t rate = 0;
  std::vector<JobItem> items;
  std::string errorName, errorMessage;
  JobResultView result;

  bool over() const { return finishedAt != 0; }
  template <typename Visitor>
  static void fields(Visitor&& visit);
};

// Only what changes: the rest comes from the core's info and settings.
struct ManagerView {
  std::string state;
  std::vector<ConditionRow> conditions;
  std::uint32_t podCount = 0, containerCount = 0, runningCount = 0, imageCount = 0;

  template <typename Visitor>
  static void fields(Visitor&& visit);
};

// `containers`, `usedBy`: objects shown, sorted. nodeCgroup: core::Info::nodeCgroup.
PodView makePodView(const PodRecord& record, const std::string& nodeCgroup, std::vector<sdbus::ObjectPath> containers);
ContainerView makeContainerView(const ContainerRecord& record, const std::string& nodeCgroup, pid_t hostPid);
ImageView makeImageView(const ImageRecord& record, std::vector<sdbus::ObjectPath> usedBy);
JobView makeJobView(const core::JobRecord& record);
ManagerView makeManagerView(const core::Snapshot& snapshot);

// A container is shown once it has been made completely.
inline bool isShown(const ContainerRecord& record) {
  return record.state != ContainerRecord::State::Creating;
}
std::string_view originName(Origin origin);
VariantMap jobResult(const JobResultView& result);

// Every value that the State property may have: a filter with another one is refused.
const std::vector<std::string>& podStates();
const std::vector<std::string>& containerStates();

template <typename Visitor>
void PodView::fields(Visitor&& visit) {
  visit("Id", &PodView::id, Kind::Const);
  visit("Name", &PodView::name, Kind::Const);
  visit("Namespace", &PodView::nameSpace, Kind::Const);
  visit("Uid", &PodView::uid, Kind::Const);
  visit("Attempt", &PodView::attempt, Kind::Const);
  visit("Origin", &PodView::origin, Kind::Const);
  visit("Labels", &PodView::labels, Kind::Changes);
  visit("Annotations", &PodView::annotations, Kind::Changes);
  visit("State", &PodView::state, Kind::Changes);
  visit("CreatedAt", &PodView::createdAt, Kind::Const);
  visit("RuntimeHandler", &PodView::runtimeHandler, Kind::Const);
  visit("Addresses", &PodView::addresses, Kind::Changes);
  visit("NetworkMode", &PodView::networkMode, Kind::Const);
  visit("CgroupPath", &PodView::cgroupPath, Kind::Const);
  visit("Containers", &PodView::containers, Kind::Changes);
}

template <typename Visitor>
void ContainerView::fields(Visitor&& visit) {
  visit("Id", &ContainerView::id, Kind::Const);
  visit("Name", &ContainerView::name, Kind::Const);
  visit("Pod", &ContainerView::pod, Kind::Const);
  visit("Image", &ContainerView::image, Kind::Const);
  visit("ImageRef", &ContainerView::imageRef, Kind::Const);
  visit("Origin", &ContainerView::origin, Kind::Const);
  visit("Labels", &ContainerView::labels, Kind::Changes);
  visit("Annotations", &ContainerView::annotations, Kind::Changes);
  visit("State", &ContainerView::state, Kind::Changes);
  visit("Pid", &ContainerView::pid, Kind::Changes);
  visit("ExitCode", &ContainerView::exitCode, Kind::Changes);
  visit("ExitSignal", &ContainerView::exitSignal, Kind::Changes);
  visit("Reason", &ContainerView::reason, Kind::Changes);
  visit("Message", &ContainerView::message, Kind::Changes);
  visit("CreatedAt", &ContainerView::createdAt, Kind::Const);
  visit("StartedAt", &ContainerView::startedAt, Kind::Changes);
  visit("FinishedAt", &ContainerView::finishedAt, Kind::Changes);
  visit("Attempt", &ContainerView::attempt, Kind::Const);
  visit("Command", &ContainerView::command, Kind::Const);
  visit("WorkingDirectory", &ContainerView::workingDirectory, Kind::Const);
  visit("Tty", &ContainerView::tty, Kind::Const);
  visit("StdinOpen", &ContainerView::stdinOpen, Kind::Const);
  visit("LogPath", &ContainerView::logPath, Kind::Const);
  visit("CgroupPath", &ContainerView::cgroupPath, Kind::Const);
  visit("OomKilled", &ContainerView::oomKilled, Kind::Changes);
}

template <typename Visitor>
void ImageView::fields(Visitor&& visit) {
  visit("Id", &ImageView::id, Kind::Const);
  visit("RepoTags", &ImageView::repoTags, Kind::Changes);
  visit("RepoDigests", &ImageView::repoDigests, Kind::Changes);
  visit("Size", &ImageView::size, Kind::Const);
  visit("CreatedAt", &ImageView::createdAt, Kind::Changes);
  visit("Architecture", &ImageView::architecture, Kind::Const);
  visit("Os", &ImageView::os, Kind::Const);
  visit("Variant", &ImageView::variant, Kind::Const);
  visit("Labels", &ImageView::labels, Kind::Const);
  visit("Pinned", &ImageView::pinned, Kind::Changes);
  visit("UsedBy", &ImageView::usedBy, Kind::Changes);
}

template <typename Visitor>
void JobView::fields(Visitor&& visit) {
  visit("Id", &JobView::id, Kind::Const);
  visit("Type", &JobView::type, Kind::Const);
  visit("Objects", &JobView::objects, Kind::Changes);
  visit("Sender", &JobView::sender, Kind::Const);
  visit("State", &JobView::state, Kind::Changes);
  visit("Cancelable", &JobView::cancelable, Kind::Changes);
  visit("StartedAt", &JobView::startedAt, Kind::Changes);
  visit("FinishedAt", &JobView::finishedAt, Kind::Changes);
  visit("Stage", &JobView::stage, Kind::Changes);
  visit("Progress", &JobView::progress, Kind::Changes);
  visit("Done", &JobView::done, Kind::Changes);
  visit("Total", &JobView::total, Kind::Changes);
  visit("Unit", &JobView::unit, Kind::Changes);
  visit("Rate", &JobView::rate, Kind::Changes);
  visit("Items", &JobView::items, Kind::Changes);
  visit("ErrorName", &JobView::errorName, Kind::Changes);
  visit("ErrorMessage", &JobView::errorMessage, Kind::Changes);
  visit("Result", &JobView::result, Kind::Changes);
}

template <typename Visitor>
void ManagerView::fields(Visitor&& visit) {
  visit("State", &ManagerView::state, Kind::Changes);
  visit("Conditions", &ManagerView::conditions, Kind::Changes);
  visit("PodCount", &ManagerView::podCount, Kind::Changes);
  visit("ContainerCount", &ManagerView::containerCount, Kind::Changes);
  visit("RunningCount", &ManagerView::runningCount, Kind::Changes);
  visit("ImageCount", &ManagerView::imageCount, Kind::Changes);
}

// Names of the properties that differ. A const one never is among them: sd-bus refuses to announce it.
template <typename View>
std::vector<std::string> changedProperties(const View& before, const View& after) {
  std::vector<std::string> names;
  View::fields([&](const char* name, auto member, Kind kind) {
    if (kind == Kind::Changes && before.*member != after.*member) names.emplace_back(name);
  });
  return names;
}

template <typename View>
std::vector<std::string> propertyNames() {
  std::vector<std::string> names;
  View::fields([&](const char* name, auto, Kind) { names.emplace_back(name); });
  return names;
}

// Properties as a map for a bulk read: those `wanted` says yes to.
template <typename View, typename Wanted>
VariantMap propertyMap(const View& view, const Wanted& wanted) {
  VariantMap map;
  View::fields([&](const char* name, auto member, Kind) {
    if (wanted(name)) map.emplace(name, sdbus::Variant{view.*member});
  });
  return map;
}

}  // namespace userpod::bus

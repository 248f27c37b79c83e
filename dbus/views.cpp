#include "dbus/views.hpp"

#include <arpa/inet.h>
#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <csignal>

#include "dbus/paths.hpp"

namespace userpod::bus {
namespace {

std::uint64_t micros(std::int64_t nanoseconds) {
  return nanoseconds > 0 ? static_cast<std::uint64_t>(nanoseconds) / 1000 : 0;
}

std::vector<std::string> cleanList(const std::vector<std::string>& list) {
  std::vector<std::string> clean;
  clean.reserve(list.size());
  for (const auto& text : list) clean.push_back(cleanText(text));
  return clean;
}

StringMap cleanMap(const StringMap& map) {
  StringMap clean;
  for (const auto& [key, value] : map) clean.emplace(cleanText(key), cleanText(value));
  return clean;
}

Bytes toBytes(const std::string& text) {
  return {text.begin(), text.end()};
}

std::string podState(PodRecord::State state) {
  switch (state) {
    case PodRecord::State::Creating:
      return "creating";
    case PodRecord::State::Ready:
      return "ready";
    case PodRecord::State::NotReady:
      return "notready";
  }
  return "unknown";
}

std::string containerState(ContainerRecord::State state) {
  switch (state) {
    case ContainerRecord::State::Creating:
    case ContainerRecord::State::Created:
      return "created";
    case ContainerRecord::State::Running:
      return "running";
    case ContainerRecord::State::Exited:
      return "exited";
    case ContainerRecord::State::Unknown:
      break;
  }
  return "unknown";
}

std::string jobState(core::JobRecord::State state) {
  switch (state) {
    case core::JobRecord::State::Queued:
      return "queued";
    case core::JobRecord::State::Running:
      return "running";
    case core::JobRecord::State::Canceling:
      return "canceling";
    case core::JobRecord::State::Done:
      return "done";
    case core::JobRecord::State::Failed:
      return "failed";
    case core::JobRecord::State::Canceled:
      return "canceled";
  }
  return "failed";
}

std::vector<Address> addressesOf(const PodRecord& record) {
  std::vector<Address> list;
  for (const auto& text : record.addresses) {
    std::array<std::uint8_t, sizeof(in6_addr)> bytes{};
    int family = text.find(':') == std::string::npos ? AF_INET : AF_INET6;
    if (::inet_pton(family, text.c_str(), bytes.data()) != 1) continue;
    auto length = family == AF_INET ? sizeof(in_addr) : sizeof(in6_addr);
    list.emplace_back(static_cast<std::uint8_t>(family), Bytes(bytes.begin(), bytes.begin() + length));
  }
  return list;
}

// The kernel's end by a signal reaches us as 128 + its number; only numbers that are signals count.
std::uint32_t signalOf(const ContainerRecord& record) {
  if (record.finishedAt == 0 || record.exitCode <= 128 || record.exitCode > 128 + SIGRTMAX) return 0;
  return static_cast<std::uint32_t>(record.exitCode - 128);
}

std::string jobObject(const core::JobRecord& record) {
  if (record.type.ends_with("-pod")) return podPath(record.object);
  if (record.type.ends_with("-container")) return containerPath(record.object);
  if (record.type == "remove-image") return imagePath(record.object);
  return "";
}

}  // namespace

std::string_view originName(Origin origin) {
  return origin == Origin::Cri ? "cri" : "desktop";
}

const std::vector<std::string>& podStates() {
  static const std::vector<std::string> states = {"creating", "ready", "notready", "removing", "unknown"};
  return states;
}

const std::vector<std::string>& containerStates() {
  static const std::vector<std::string> states = {"created", "running",  "paused", "stopping",
                                                  "exited",  "removing", "unknown"};
  return states;
}

PodView makePodView(const PodRecord& record, const std::string& nodeCgroup, std::vector<sdbus::ObjectPath> containers) {
  PodView view;
  view.id = record.id;
  view.name = cleanText(record.config.name);
  view.nameSpace = cleanText(record.config.nameSpace);
  view.uid = cleanText(record.config.uid);
  view.attempt = record.config.attempt;
  view.origin = originName(record.origin);
  view.labels = cleanMap(record.config.labels);
  view.annotations = cleanMap(record.config.annotations);
  view.state = podState(record.state);
  view.createdAt = micros(record.createdAt);
  view.runtimeHandler = cleanText(record.runtimeHandler);
  view.addresses = addressesOf(record);
  view.networkMode = record.config.security.namespaces.network == NamespaceMode::Node ? "node" : "pod";
  view.cgroupPath = cleanText(nodeCgroup + record.cgroup);
  view.containers = std::move(containers);
  return view;
}

ContainerView makeContainerView(const ContainerRecord& record, const std::string& nodeCgroup, pid_t hostPid) {
  ContainerView view;
  view.id = record.id;
  view.name = cleanText(record.config.name);
  view.pod = sdbus::ObjectPath(podPath(record.podId));
  view.image = sdbus::ObjectPath(imagePath(record.imageId));
  const std::string& named = record.config.userSpecifiedImage;
  view.imageRef = cleanText(named.empty() ? record.config.image : named);
  view.origin = originName(record.origin);
  view.labels = cleanMap(record.config.labels);
  view.annotations = cleanMap(record.config.annotations);
  view.state = record.paused ? "paused" : containerState(record.state);
  view.pid = static_cast<std::uint32_t>(std::max<pid_t>(hostPid, 0));
  view.exitCode = record.exitCode;
  view.exitSignal = signalOf(record);
  view.reason = cleanText(record.reason);
  view.message = cleanText(record.message);
  view.createdAt = micros(record.createdAt);
  view.startedAt = micros(record.startedAt);
  view.finishedAt = micros(record.finishedAt);
  view.attempt = record.config.attempt;
  for (const auto& argument : record.processArgs) view.command.push_back(toBytes(argument));
  view.workingDirectory = toBytes(record.workingDirectory);
  view.tty = record.config.tty;
  view.stdinOpen = record.config.stdinOpen;
  view.logPath = cleanText(record.logPath);
  view.cgroupPath = cleanText(nodeCgroup + record.cgroup);
  view.oomKills = record.oomKills;
  view.oomKilled = record.oomKills > 0;
  return view;
}

ImageView makeImageView(const ImageRecord& record, std::vector<sdbus::ObjectPath> usedBy) {
  ImageView view;
  view.id = cleanText(record.id);
  view.repoTags = cleanList(record.repoTags);
  view.repoDigests = cleanList(record.repoDigests);
  view.size = static_cast<std::uint64_t>(std::max<std::int64_t>(record.size, 0));
  view.createdAt = micros(record.createdAt);
  view.architecture = cleanText(record.architecture);
  view.os = cleanText(record.os);
  view.variant = cleanText(record.variant);
  view.labels = cleanMap(record.labels);
  view.pinned = record.pinned;
  view.usedBy = std::move(usedBy);
  return view;
}

JobView makeJobView(const core::JobRecord& record) {
  using State = core::JobRecord::State;
  bool pull = record.type == core::kPullJob;
  JobView view;
  view.id = record.id;
  view.type = record.type;
  view.sender = cleanText(record.sender);
  view.state = jobState(record.state);
  view.cancelable =
      core::isCancelable(record.type) && (record.state == State::Queued || record.state == State::Running);
  view.startedAt = micros(record.startedAt);
  view.finishedAt = micros(record.finishedAt);
  view.stage = cleanText(record.progress.stage);
  view.done = record.progress.done;
  view.total = record.progress.total;
  if (record.state == State::Done)
    view.progress = 1;
  else if (view.total > 0)
    view.progress = std::min(1.0, static_cast<double>(view.done) / static_cast<double>(view.total));
  view.rate = record.rate;
  view.unit = pull ? "bytes" : "items";
  for (const auto& layer : record.progress.layers)
    view.items.emplace_back(cleanText(layer.digest), cleanText(layer.state), layer.done, layer.total);
  if (record.error) {
    view.errorName = dbusErrorName(record.error->code());
    view.errorMessage = cleanText(record.error->text());
  }
  if (auto object = jobObject(record); !object.empty()) view.objects.emplace_back(object);
  if (!record.image.empty()) {
    view.result.image = imagePath(record.image);
    view.objects.emplace_back(view.result.image);
  }
  if (record.pruned) {
    view.result.pruned = true;
    view.result.images = cleanList(record.pruned->images);
    view.result.bytes = static_cast<std::uint64_t>(std::max<std::int64_t>(record.pruned->bytes, 0));
  }
  if (record.findings) {
    view.result.checked = true;
    for (Finding finding : *record.findings) {
      for (auto* text : {&finding.id, &finding.text, &finding.mend, &finding.failure}) *text = cleanText(*text);
      view.result.findings.push_back(std::move(finding));
    }
  }
  return view;
}

namespace {

VariantMap findingMap(const Finding& finding) {
  VariantMap map;
  map.emplace("code", sdbus::Variant{finding.code});
  map.emplace("severity", sdbus::Variant{std::string(severityName(finding.severity))});
  map.emplace("kind", sdbus::Variant{finding.kind});
  map.emplace("id", sdbus::Variant{finding.id});
  map.emplace("text", sdbus::Variant{finding.text});
  map.emplace("mend", sdbus::Variant{finding.mend});
  map.emplace("repairable", sdbus::Variant{finding.repairable});
  map.emplace("repaired", sdbus::Variant{finding.repaired});
  map.emplace("failure", sdbus::Variant{finding.failure});
  return map;
}

}  // namespace

VariantMap jobResult(const JobResultView& result) {
  VariantMap map;
  if (!result.image.empty()) map.emplace("image", sdbus::Variant{sdbus::ObjectPath(result.image)});
  if (result.pruned) {
    map.emplace("images", sdbus::Variant{result.images});
    map.emplace("bytes", sdbus::Variant{result.bytes});
  }
  if (result.checked) {
    std::vector<VariantMap> rows;
    for (const auto& finding : result.findings) rows.push_back(findingMap(finding));
    map.emplace("findings", sdbus::Variant{rows});
  }
  return map;
}

ManagerView makeManagerView(const core::Snapshot& snapshot) {
  ManagerView view;
  view.state = "running";
  for (const auto& condition : snapshot.conditions) {
    if (!condition.ok) view.state = "degraded";
    view.conditions.emplace_back(cleanText(condition.type), condition.ok, cleanText(condition.reason),
                                 cleanText(condition.message));
  }
  view.podCount = static_cast<std::uint32_t>(snapshot.pods.size());
  for (const auto& container : snapshot.containers) {
    if (!isShown(*container)) continue;
    ++view.containerCount;
    if (container->state == ContainerRecord::State::Running && !container->paused) ++view.runningCount;
  }
  view.imageCount = static_cast<std::uint32_t>(snapshot.images->size());
  return view;
}

}  // namespace userpod::bus

#include "dbus/userpodctl/top_view.hpp"

#include <fmt/core.h>

#include <algorithm>
#include <tuple>

namespace userpod::ctl {
namespace {

constexpr double kMicros = 1'000'000;
constexpr double kNanos = 1'000'000'000;

std::optional<std::uint64_t> numberOf(const Json& figures, const char* name) {
  if (!figures.is_object()) return std::nullopt;
  auto found = figures.find(name);
  if (found == figures.end() || !found->is_number_unsigned()) return std::nullopt;
  return found->get<std::uint64_t>();
}

double realOf(const Json& figures, const std::string& name) {
  if (!figures.is_object()) return 0;
  auto found = figures.find(name);
  return found != figures.end() && found->is_number() ? found->get<double>() : 0;
}

std::string textOf(const Json& object, const char* name) {
  if (!object.is_object()) return {};
  auto found = object.find(name);
  return found != object.end() && found->is_string() ? found->get<std::string>() : std::string();
}

const Json& figuresOf(const Json& stats, const std::string& object) {
  static const Json kNone = Json::object();
  if (!stats.is_object()) return kNone;
  auto found = stats.find(object);
  return found != stats.end() && found->is_object() ? *found : kNone;
}

void setPressure(TopRow& row, const Json& figures) {
  for (const char* of : {"cpu", "memory", "io"})
    if (double percent = realOf(figures, std::string(of) + "-pressure-some"); percent > row.pressure) {
      row.pressure = percent;
      row.pressureOf = of;
    }
}

void addTo(std::optional<double>& sum, const std::optional<double>& value) {
  if (value) sum = sum.value_or(0) + *value;
}

void addTo(std::optional<std::uint64_t>& sum, const std::optional<std::uint64_t>& value) {
  if (value) sum = sum.value_or(0) + *value;
}

bool lacks(const std::vector<TopRow>& pods, bool (*missing)(const TopRow&)) {
  bool any = false;
  for (const auto& pod : pods)
    for (const auto& container : pod.containers) {
      if (!missing(container)) return false;
      any = true;
    }
  return any;
}

void addNotes(TopSample& sample, const Json& manager) {
  std::string missing;
  auto note = [&](const char* what, bool (*isMissing)(const TopRow&)) {
    if (lacks(sample.pods, isMissing)) missing += (missing.empty() ? "" : ", ") + std::string(what);
  };
  note("memory", [](const TopRow& row) { return !row.memory; });
  note("pids", [](const TopRow& row) { return !row.tasks; });
  if (!missing.empty())
    sample.notes.push_back("-: not available: " + missing +
                           "; the controller is not delegated to the node: userpodctl doctor tells how");
  auto conditions = manager.is_object() ? manager.value("Conditions", Json::array()) : Json::array();
  for (const auto& condition : conditions) {
    if (!condition.is_array() || condition.size() < 4 || !condition[1].is_boolean() || condition[1].get<bool>())
      continue;
    if (condition[0] == "CgroupDelegation" && !missing.empty()) continue;
    if (condition[0].is_string() && condition[3].is_string())
      sample.notes.push_back(condition[0].get<std::string>() + ": " + condition[3].get<std::string>());
  }
}

}  // namespace

// Less than before: it began anew.
std::optional<double> TopHistory::rate(const std::string& key, std::uint64_t value, std::uint64_t time) {
  Counter& counter = counters_[key];
  Counter before = counter;
  counter = {value, time, true};
  if (before.time == 0 || time <= before.time || value < before.value) return std::nullopt;
  return static_cast<double>(value - before.value) * kMicros / static_cast<double>(time - before.time);
}

TopRow TopHistory::row(const Json& object, const Json& stats) {
  TopRow row;
  std::string path = textOf(object, "Path");
  const Json& figures = figuresOf(stats, path);
  row.id = textOf(object, "Id");
  row.name = textOf(object, "Name");
  row.state = textOf(object, "State");
  auto time = numberOf(figures, "timestamp");
  if (auto usage = numberOf(figures, "cpu-usage-nsec"); usage && time)
    if (auto spent = rate(path + " cpu", *usage, *time)) row.cpu = *spent / kNanos;
  if (auto given = numberOf(figures, "cpu-rate"); given && !row.cpu) row.cpu = static_cast<double>(*given) / kNanos;
  row.memory = numberOf(figures, "memory-working-set");
  row.memoryLimit = numberOf(figures, "memory-limit");
  row.tasks = numberOf(figures, "tasks");
  row.disk = numberOf(figures, "layer-bytes");
  auto read = numberOf(figures, "io-read-bytes");
  auto written = numberOf(figures, "io-written-bytes");
  if (read && written && time) row.io = rate(path + " io", *read + *written, *time);
  setPressure(row, figures);
  auto networkTime = numberOf(figures, "network-timestamp");
  if (!networkTime || !figures.contains("interfaces")) return row;
  std::uint64_t received = 0;
  std::uint64_t sent = 0;
  for (const auto& interface : figures["interfaces"]) {
    received += numberOf(interface, "received-bytes").value_or(0);
    sent += numberOf(interface, "sent-bytes").value_or(0);
  }
  row.received = rate(path + " rx", received, *networkTime);
  row.sent = rate(path + " tx", sent, *networkTime);
  return row;
}

TopSample TopHistory::add(const TopAnswers& answers) {
  for (auto& [key, counter] : counters_) counter.seen = false;
  TopSample sample;
  sample.time = answers.time;
  sample.version = textOf(answers.manager, "Version");
  sample.state = textOf(answers.manager, "State");
  sample.containers = numberOf(answers.manager, "ContainerCount").value_or(0);
  sample.running = numberOf(answers.manager, "RunningCount").value_or(0);
  std::map<std::string, std::size_t> places;
  for (const auto& pod : answers.pods) {
    places[textOf(pod, "Path")] = sample.pods.size();
    sample.pods.push_back(row(pod, answers.stats));
    if (auto nameSpace = textOf(pod, "Namespace"); !nameSpace.empty())
      sample.pods.back().name = nameSpace + "/" + sample.pods.back().name;
  }
  for (const auto& container : answers.containers) {
    auto place = places.find(textOf(container, "Pod"));
    std::string state = textOf(container, "State");
    if (place == places.end() || (state != "running" && state != "paused")) continue;
    sample.pods[place->second].containers.push_back(row(container, answers.stats));
  }
  for (auto& pod : sample.pods) {
    for (const auto& container : pod.containers) addTo(pod.disk, container.disk);
    addTo(sample.total.cpu, pod.cpu);
    addTo(sample.total.memory, pod.memory);
    addTo(sample.total.tasks, pod.tasks);
    addTo(sample.total.received, pod.received);
    addTo(sample.total.sent, pod.sent);
    addTo(sample.total.io, pod.io);
    addTo(sample.total.disk, pod.disk);
  }
  addNotes(sample, answers.manager);
  std::erase_if(counters_, [](const auto& entry) { return !entry.second.seen; });
  return sample;
}

std::optional<TopSort> topSort(std::string_view name) {
  if (name == "cpu") return TopSort::Cpu;
  if (name == "memory") return TopSort::Memory;
  if (name == "name") return TopSort::Name;
  if (name == "pids") return TopSort::Pids;
  if (name == "io") return TopSort::Io;
  if (name == "net") return TopSort::Net;
  return std::nullopt;
}

namespace {

double weight(const TopRow& row, TopSort by) {
  constexpr double kNone = -1;
  switch (by) {
    case TopSort::Cpu:
      return row.cpu.value_or(kNone);
    case TopSort::Memory:
      return row.memory ? static_cast<double>(*row.memory) : kNone;
    case TopSort::Pids:
      return row.tasks ? static_cast<double>(*row.tasks) : kNone;
    case TopSort::Io:
      return row.io.value_or(kNone);
    case TopSort::Net:
      return row.received || row.sent ? row.received.value_or(0) + row.sent.value_or(0) : kNone;
    default:
      return 0;
  }
}

}  // namespace

void sortRows(std::vector<TopRow>& rows, TopSort by) {
  std::sort(rows.begin(), rows.end(), [by](const TopRow& a, const TopRow& b) {
    double first = weight(a, by);
    double second = weight(b, by);
    if (first != second) return first > second;
    return std::tie(a.name, a.id) < std::tie(b.name, b.id);
  });
  for (auto& row : rows) sortRows(row.containers, by);
}

Json topJson(const TopSample& sample) {
  auto put = [](Json& object, const char* name, const auto& value) {
    if (value) object[name] = *value;
  };
  auto rowJson = [&](const TopRow& row) {
    Json object = Json::object();
    if (!row.id.empty()) object = {{"id", row.id}, {"name", row.name}, {"state", row.state}};
    put(object, "cpu", row.cpu);
    put(object, "memory", row.memory);
    put(object, "memory-limit", row.memoryLimit);
    put(object, "pids", row.tasks);
    put(object, "received-rate", row.received);
    put(object, "sent-rate", row.sent);
    put(object, "io-rate", row.io);
    put(object, "disk", row.disk);
    if (!row.pressureOf.empty()) object["pressure"] = {{"of", row.pressureOf}, {"percent", row.pressure}};
    return object;
  };
  Json pods = Json::array();
  for (const auto& pod : sample.pods) {
    Json one = rowJson(pod);
    one["containers"] = Json::array();
    for (const auto& container : pod.containers) one["containers"].push_back(rowJson(container));
    pods.push_back(std::move(one));
  }
  return {{"time", sample.time},       {"version", sample.version}, {"state", sample.state},
          {"problem", sample.problem}, {"running", sample.running}, {"total", rowJson(sample.total)},
          {"notes", sample.notes},     {"pods", std::move(pods)}};
}

}  // namespace userpod::ctl

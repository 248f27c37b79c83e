// status, pods, containers, images, inspect: what reads.
#include <fmt/core.h>

#include "dbus/userpodctl/bus_client.hpp"
#include "dbus/userpodctl/commands.hpp"
#include "dbus/userpodctl/output.hpp"

namespace userpod::ctl {
namespace {

using Rows = std::vector<std::vector<std::string>>;

std::string text(const Json& properties, const char* name) {
  auto found = properties.find(name);
  if (found == properties.end()) return "";
  return found->is_string() ? found->get<std::string>() : found->dump();
}

std::uint64_t number(const Json& properties, const char* name) {
  auto found = properties.find(name);
  return found != properties.end() && found->is_number() ? found->get<std::uint64_t>() : 0;
}

std::string firstOf(const Json& properties, const char* name) {
  auto found = properties.find(name);
  return found != properties.end() && found->is_array() && !found->empty() ? (*found)[0].get<std::string>() : "";
}

std::string lastPart(const std::string& path) {
  return path.substr(path.rfind('/') + 1);
}

// [[path, properties], ...] -> [properties with Path first, ...]
Result<Json> list(const char* method) {
  USERPOD_TRY(bus, BusClient::open());
  USERPOD_TRY(found, bus.call(kRootPath, kManager, method, noOptions()));
  Json objects = Json::array();
  for (auto& pair : found) {
    Json object = {{"Path", pair[0]}};
    for (auto& [name, value] : pair[1].items()) object[name] = value;
    readable(object);
    objects.push_back(std::move(object));
  }
  return objects;
}

int show(const char* method, const Display& display, Rows heading, std::vector<std::string> (*row)(const Json&)) {
  auto objects = list(method);
  if (!objects) return fail(objects.error(), display);
  if (display.json) {
    fmt::print("{}\n", objects->dump(2));
    return 0;
  }
  for (const auto& object : *objects) heading.push_back(row(object));
  fmt::print("{}", table(heading));
  return 0;
}

std::vector<std::string> podRow(const Json& pod) {
  return {shortId(text(pod, "Id")),
          text(pod, "Name"),
          text(pod, "Namespace"),
          text(pod, "State"),
          text(pod, "Origin"),
          firstOf(pod, "Addresses"),
          std::to_string(pod.value("Containers", Json::array()).size()),
          timeText(number(pod, "CreatedAt"))};
}

std::vector<std::string> containerRow(const Json& container) {
  std::string state = text(container, "State");
  if (state == "exited") state += fmt::format(" ({})", text(container, "ExitCode"));
  auto pid = number(container, "Pid");
  return {shortId(text(container, "Id")),
          text(container, "Name"),
          shortId(lastPart(text(container, "Pod"))),
          state,
          pid != 0 ? std::to_string(pid) : "-",
          text(container, "ImageRef"),
          timeText(number(container, "CreatedAt"))};
}

std::vector<std::string> imageRow(const Json& image) {
  std::string names;
  for (const auto& tag : image.value("RepoTags", Json::array()))
    names += (names.empty() ? "" : ", ") + tag.get<std::string>();
  if (names.empty()) names = firstOf(image, "RepoDigests");
  return {shortId(text(image, "Id")), names, sizeText(number(image, "Size")),
          std::to_string(image.value("UsedBy", Json::array()).size()), timeText(number(image, "CreatedAt"))};
}

Status printStatus(const Display& display) {
  USERPOD_TRY(bus, BusClient::open());
  USERPOD_TRY(status, bus.properties(kRootPath, kManager, false));
  if (display.json) {
    fmt::print("{}\n", status.dump(2));
    return {};
  }
  fmt::print("userpod {}: {}\n", text(status, "Version"), text(status, "State"));
  fmt::print("  CRI endpoint  {}\n", text(status, "CriEndpoint"));
  fmt::print("  data          {} ({})\n", text(status, "GraphRoot"), text(status, "StorageDriver"));
  fmt::print("  pods          {}\n", number(status, "PodCount"));
  fmt::print("  containers    {}, {} running\n", number(status, "ContainerCount"), number(status, "RunningCount"));
  fmt::print("  images        {}\n", number(status, "ImageCount"));
  for (const auto& condition : status.value("Conditions", Json::array()))
    fmt::print("  {} {}{}{}\n", condition[1].get<bool>() ? "ok     " : "NOT MET", condition[0].get<std::string>(),
               condition[3] == "" ? "" : ": ", printable(condition[3].get<std::string>()));
  return {};
}

Status printObject(const std::string& key) {
  USERPOD_TRY(bus, BusClient::open());
  USERPOD_TRY(object, bus.find(key, {"Pod", "Container", "Image"}));
  USERPOD_TRY(properties, bus.properties(object.path, object.interface.c_str()));
  Json shown = {{"Kind", object.interface.substr(object.interface.rfind('.') + 1)}, {"Path", object.path}};
  for (auto& [name, value] : properties.items()) shown[name] = value;
  fmt::print("{}\n", shown.dump(2));
  return {};
}

}  // namespace

int runStatus(const Display& display) {
  return finish(printStatus(display), display);
}

int runPods(const Display& display) {
  return show("ListPods", display, {{"ID", "NAME", "NAMESPACE", "STATE", "ORIGIN", "ADDRESS", "CONTAINERS", "CREATED"}},
              podRow);
}

int runContainers(const Display& display) {
  return show("ListContainers", display, {{"ID", "NAME", "POD", "STATE", "PID", "IMAGE", "CREATED"}}, containerRow);
}

int runImages(const Display& display) {
  return show("ListImages", display, {{"ID", "NAMES", "SIZE", "USED BY", "CREATED"}}, imageRow);
}

int runInspect(const std::string& key, const Display& display) {
  return finish(printObject(key), display);
}

}  // namespace userpod::ctl

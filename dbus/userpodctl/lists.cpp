// status, pods, containers, inspect: what reads.
#include <fmt/core.h>

#include "dbus/userpodctl/bus_client.hpp"
#include "dbus/userpodctl/commands.hpp"
#include "dbus/userpodctl/output.hpp"

namespace userpod::ctl {
namespace {

using Rows = std::vector<std::vector<std::string>>;

std::string lastPart(const std::string& path) {
  return path.substr(path.rfind('/') + 1);
}

Result<Json> list(const char* method) {
  USERPOD_TRY(bus, BusClient::open());
  return bus.list(method);
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

Status printObject(const std::string& key, const std::vector<std::string>& kinds) {
  USERPOD_TRY(bus, BusClient::open());
  USERPOD_TRY(object, bus.find(key, kinds));
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

int runInspect(const std::string& key, const std::vector<std::string>& kinds, const Display& display) {
  return finish(printObject(key, kinds), display);
}

}  // namespace userpod::ctl

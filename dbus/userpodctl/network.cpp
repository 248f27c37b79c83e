// network: what pods' packets pass, and the way they take.
#include <fmt/core.h>

#include "dbus/userpodctl/bus_client.hpp"
#include "dbus/userpodctl/commands.hpp"
#include "dbus/userpodctl/network_paths.hpp"
#include "dbus/userpodctl/output.hpp"

namespace userpod::ctl {
namespace {

constexpr const char* kPod = "org.userpod1.Pod";

struct Shown {
  Json network;
  Json pods = Json::array();  // ready ones, each with its Path
  std::size_t pod = kAnyPod;
};

std::string value(const Json& object, const char* name) {
  auto found = object.find(name);
  if (found == object.end()) return "";
  return found->is_string() ? found->get<std::string>() : found->dump();
}

Json listOf(const Json& object, const char* name) {
  auto found = object.find(name);
  return found != object.end() && found->is_array() ? *found : Json::array();
}

Json linkOf(const Json& network, const std::string& path) {
  auto links = network.find("links");
  return links != network.end() && links->contains(path) ? (*links)[path] : Json("");
}

Status readPods(BusClient& bus, Shown& shown) {
  USERPOD_TRY(pods, bus.call(kRootPath, kManager, "ListPods", [](sd_bus_message* message) {
    return sd_bus_message_append(message, "a{sv}", 2, "state", "s", "ready", "fields", "as", 5, "Id", "Name",
                                 "Namespace", "Addresses", "NetworkMode");
  }));
  for (const auto& pair : pods) {
    Json pod = {{"Path", pair[0]}};
    for (const auto& [name, property] : pair[1].items()) pod[name] = property;
    readable(pod);
    pod["Link"] = linkOf(shown.network, pair[0].get<std::string>());
    shown.pods.push_back(std::move(pod));
  }
  return {};
}

// Of the pod alone what is its own; the rest concerns it as well.
Status choosePod(BusClient& bus, const std::string& key, Shown& shown) {
  USERPOD_TRY(object, bus.find(key, {"Pod"}));
  for (std::size_t i = 0; i < shown.pods.size(); ++i)
    if (shown.pods[i]["Path"] == object.path) shown.pod = i;
  if (shown.pod == kAnyPod) {
    USERPOD_TRY(properties, bus.properties(object.path, kPod));
    return Error(Code::InvalidState, fmt::format("pod {} is {}: only a ready one has a network",
                                                 value(properties, "Id"), value(properties, "State")));
  }
  Json ports = Json::array();
  for (const auto& port : listOf(shown.network, "ports"))
    if (value(port, "pod") == object.path) ports.push_back(port);
  shown.network["ports"] = std::move(ports);
  return {};
}

void printLine(const char* name, const std::string& text) {
  if (!text.empty()) fmt::print("  {:<10}  {}\n", name, printable(text));
}

std::string hostText(const Json& network) {
  if (network.value("host-loopback", false)) return "host.userpod.internal leads to the host's 127.0.0.1";
  auto address = value(network, "host-address");
  if (address.empty()) return "host.userpod.internal leads nowhere";
  return "host.userpod.internal leads to " + address;
}

void printNetwork(const Json& network, const Display& display) {
  auto loud = [&](const std::string& text) { return display.color ? "\033[1;31m" + text + "\033[0m" : text; };
  fmt::print("network of pods: {}\n", printable(value(network, "stack")));
  printLine("bridge", value(network, "bridge"));
  printLine("subnets", joined(listOf(network, "subnets")));
  printLine("gateways", joined(listOf(network, "gateways")));
  if (network.contains("addresses-all"))
    printLine("addresses",
              fmt::format("{} of {} used", value(network, "addresses-used"), value(network, "addresses-all")));
  auto uplink = value(network, "uplink"), reason = value(network, "uplink-reason");
  auto program = value(network, "uplink-program"), choice = value(network, "uplink-choice");
  std::string by = program.empty() ? "" : fmt::format(", {}{}", program, choice.empty() ? "" : " (" + choice + ")");
  std::string state = printable(uplink + by + (reason.empty() ? "" : ": " + reason));
  fmt::print("  {:<10}  {}\n", "uplink", uplink == "down" ? loud(state) : state);
  printLine("host", hostText(network));
  printLine("note", value(network, "note"));
  if (auto problem = value(network, "problem"); !problem.empty())
    fmt::print("  {:<10}  {}\n", "NOT READY", loud(printable(problem)));
}

// A heading above a table, nothing for an empty one.
void printTable(const char* title, const std::vector<std::vector<std::string>>& rows, const Display& display) {
  if (rows.size() < 2) return;
  fmt::print("\n{}{}{}\n{}", display.color ? "\033[1m" : "", title, display.color ? "\033[0m" : "", table(rows));
}

void printCni(const Json& network, const Display& display) {
  std::vector<std::vector<std::string>> rows = {{"NAME", "CHOSEN", "VERSION", "PLUGINS", "FILE", "PROBLEM"}};
  for (const auto& each : listOf(network, "cni"))
    rows.push_back({value(each, "name"), each.value("chosen", false) ? "yes" : "no", value(each, "version"),
                    joined(listOf(each, "plugins")), value(each, "file"), value(each, "problem")});
  printTable("CNI networks", rows, display);
}

std::string podName(const Shown& shown, const std::string& path) {
  for (const auto& pod : shown.pods)
    if (value(pod, "Path") == path) return value(pod, "Name");
  return shortId(path.substr(path.rfind('/') + 1));
}

void printPorts(const Shown& shown, const Display& display) {
  std::vector<std::vector<std::string>> rows = {
      {"PROTOCOL", "HOST", "NODE", "POD", "CONTAINER PORT", "OPEN", "TOTAL", "CLIENT'S ADDRESS"}};
  for (const auto& port : listOf(shown.network, "ports")) {
    auto note = value(port, "source-note");
    auto host = endpoints(listOf(port, "host-addresses"), port.value("listen-port", 0U));
    auto node = endpoints(listOf(port, "node-addresses"), port.value("host-port", 0U));
    rows.push_back({value(port, "protocol"), host.empty() ? "-" : host, node.empty() ? "-" : node,
                    podName(shown, value(port, "pod")), value(port, "container-port"), value(port, "connections"),
                    value(port, "total"), note.empty() ? "kept" : note});
  }
  printTable("Host ports", rows, display);
}

void printPods(const Shown& shown, const Display& display) {
  std::vector<std::vector<std::string>> rows = {{"ID", "NAME", "NAMESPACE", "NETWORK", "LINK", "ADDRESSES"}};
  for (std::size_t i = 0; i < shown.pods.size(); ++i) {
    if (shown.pod != kAnyPod && shown.pod != i) continue;
    const Json& pod = shown.pods[i];
    auto link = value(pod, "Link");
    auto addresses = joined(listOf(pod, "Addresses"));
    rows.push_back({shortId(value(pod, "Id")), value(pod, "Name"), value(pod, "Namespace"), value(pod, "NetworkMode"),
                    link.empty() ? "-" : link, addresses.empty() ? "-" : addresses});
  }
  printTable("Pods", rows, display);
}

Status printAll(const std::string& key, const Display& display) {
  USERPOD_TRY(bus, BusClient::open());
  Shown shown;
  USERPOD_TRY(network, bus.call(kRootPath, kManager, "GetNetwork", noOptions()));
  shown.network = std::move(network);
  USERPOD_CHECK(readPods(bus, shown));
  if (!key.empty()) USERPOD_CHECK(choosePod(bus, key, shown));
  auto paths = packetPaths(shown.network, shown.pods, shown.pod);
  if (display.json) {
    shown.network.erase("links");
    shown.network["pods"] = shown.pod == kAnyPod ? shown.pods : Json::array({shown.pods[shown.pod]});
    shown.network["paths"] = pathsJson(paths);
    fmt::print("{}\n", shown.network.dump(2));
    return {};
  }
  printNetwork(shown.network, display);
  printCni(shown.network, display);
  printPods(shown, display);
  printPorts(shown, display);
  for (const auto& path : paths) fmt::print("\n{}", picture(path, display.color));
  return {};
}

}  // namespace

int runNetwork(const std::string& key, const Display& display) {
  return finish(printAll(key, display), display);
}

}  // namespace userpod::ctl

#include "dbus/network_map.hpp"

#include "dbus/paths.hpp"
#include "dbus/views.hpp"

namespace userpod::bus {
namespace {

using Rows = std::vector<VariantMap>;

template <typename T>
void put(VariantMap& map, const char* key, T value) {
  map.emplace(key, sdbus::Variant{std::move(value)});
}

void putText(VariantMap& map, const char* key, const std::string& text) {
  put(map, key, cleanText(text));
}

void putTexts(VariantMap& map, const char* key, const std::vector<std::string>& texts) {
  std::vector<std::string> clean;
  clean.reserve(texts.size());
  for (const auto& text : texts) clean.push_back(cleanText(text));
  put(map, key, std::move(clean));
}

std::string protocolText(int protocol) {
  return protocol == 0 ? "tcp" : protocol == 1 ? "udp" : "sctp";
}

void putUplink(VariantMap& map, const std::string& uplink) {
  auto colon = uplink.find(':');
  putText(map, "uplink", uplink.substr(0, colon));
  auto reason = colon == std::string::npos ? colon : uplink.find_first_not_of(' ', colon + 1);
  putText(map, "uplink-reason", reason == std::string::npos ? "" : uplink.substr(reason));
}

Rows portRows(const std::vector<network::PublishedPort>& ports) {
  Rows rows;
  for (const auto& port : ports) {
    VariantMap& row = rows.emplace_back();
    put(row, "pod", sdbus::ObjectPath(podPath(port.podId)));
    put(row, "protocol", protocolText(port.mapping.protocol));
    put(row, "container-port", static_cast<std::uint16_t>(port.mapping.containerPort));
    put(row, "host-port", static_cast<std::uint16_t>(port.mapping.hostPort));
    putText(row, "host-ip", port.mapping.hostIp);
    put(row, "listen-port", port.listenPort);
    putTexts(row, "host-addresses", port.host);
    putTexts(row, "node-addresses", port.node);
    putText(row, "source-note", port.sourceNote);
    put(row, "connections", port.connections);
    put(row, "total", port.total);
  }
  return rows;
}

Rows cniRows(const std::vector<network::CniNetwork>& networks) {
  Rows rows;
  for (const auto& network : networks) {
    VariantMap& row = rows.emplace_back();
    putText(row, "name", network.name);
    putText(row, "file", network.file);
    putText(row, "version", network.version);
    putTexts(row, "plugins", network.plugins);
    put(row, "chosen", network.chosen);
    putText(row, "problem", network.problem);
  }
  return rows;
}

std::map<sdbus::ObjectPath, std::string> linksOf(const core::Snapshot& snapshot) {
  std::map<sdbus::ObjectPath, std::string> links;
  for (const auto& pod : snapshot.pods) {
    bool own = pod->config.security.namespaces.network != NamespaceMode::Node;
    if (own && pod->state == PodRecord::State::Ready)
      links.emplace(sdbus::ObjectPath(podPath(pod->id)), network::linkName(pod->id));
  }
  return links;
}

}  // namespace

VariantMap networkMap(const network::NetworkView& view, const core::Snapshot& snapshot, bool hostLoopback) {
  VariantMap map;
  putText(map, "stack", view.stack);
  putText(map, "problem", view.problem);
  putText(map, "note", view.note);
  if (view.stack == "bridge") {
    putText(map, "bridge", view.bridge);
    putTexts(map, "subnets", view.subnets);
    putTexts(map, "gateways", view.gateways);
    put(map, "addresses-used", static_cast<std::uint32_t>(view.addressesUsed));
    put(map, "addresses-all", static_cast<std::uint32_t>(view.addressesAll));
    put(map, "links", linksOf(snapshot));
  }
  if (view.stack == "cni") put(map, "cni", cniRows(view.cni));
  putUplink(map, view.uplink);
  putText(map, "uplink-program", view.uplinkProgram);
  putText(map, "uplink-choice", view.uplinkChoice);
  putText(map, "host-address", view.hostAddress);
  put(map, "host-loopback", hostLoopback);
  put(map, "ports", portRows(view.ports));
  return map;
}

}  // namespace userpod::bus

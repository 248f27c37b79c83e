#include "userns/resolver.hpp"

#include <arpa/inet.h>

#include <algorithm>
#include <optional>
#include <vector>

#include "daemon/sys/fd.hpp"
#include "daemon/sys/util.hpp"

namespace userpod {
namespace {

bool isBlank(char character) {
  return character == ' ' || character == '\t';
}

// Whether a line of resolv.conf begins with that word.
bool hasKey(std::string_view line, std::string_view key) {
  return line.starts_with(key) && line.size() > key.size() && isBlank(line[key.size()]);
}

// The address of a "nameserver" line.
std::optional<std::string> serverOf(std::string_view line) {
  constexpr std::string_view kKey = "nameserver";
  line = trim(line);
  if (!hasKey(line, kKey)) return std::nullopt;
  std::string_view rest = trim(line.substr(kKey.size()));
  return std::string(rest.substr(0, rest.find_first_of(" \t#;")));
}

std::optional<in_addr> asV4(const std::string& server) {
  in_addr address{};
  if (::inet_pton(AF_INET, server.c_str(), &address) == 1) return address;
  return std::nullopt;
}

std::optional<in6_addr> asV6(const std::string& server) {
  in6_addr address{};
  if (::inet_pton(AF_INET6, server.c_str(), &address) == 1) return address;  // not "fe80::1%eth0"
  return std::nullopt;
}

// Whether the node can reach a server of the host: not one on its loopback or of one of its links.
bool isReachable(const std::string& server) {
  if (auto v4 = asV4(server)) return ntohl(v4->s_addr) >> 24 != 127 && v4->s_addr != INADDR_ANY;
  auto v6 = asV6(server);
  return v6 && !IN6_IS_ADDR_LOOPBACK(&*v6) && !IN6_IS_ADDR_UNSPECIFIED(&*v6) && !IN6_IS_ADDR_LINKLOCAL(&*v6);
}

std::string serverLine(std::string_view server) {
  return "nameserver " + std::string(server) + "\n";
}

// Lines without the empty part after the last newline.
std::vector<std::string> linesOf(std::string_view text) {
  auto lines = split(text, '\n');
  if (!lines.empty() && lines.back().empty()) lines.pop_back();
  return lines;
}

std::vector<std::string> serversOf(std::string_view resolvConf) {
  std::vector<std::string> servers;
  for (const auto& line : linesOf(resolvConf))
    if (auto server = serverOf(line)) servers.push_back(std::move(*server));
  return servers;
}

}  // namespace

NameServers nameServers(std::string_view resolvConf) {
  NameServers first;
  for (const auto& server : serversOf(resolvConf)) {
    if (first.v4.empty() && asV4(server)) first.v4 = server;
    if (first.v6.empty() && asV6(server)) first.v6 = server;
  }
  return first;
}

std::string nodeResolvConf(std::string_view hostText, bool uplink) {
  const int keep = uplink ? 2 : 3;  // glibc reads three servers (MAXNS)
  std::string text;
  int servers = 0;
  for (const auto& line : linesOf(hostText))
    if (!serverOf(line) || ++servers <= keep) text += line + "\n";
  return uplink ? text + serverLine(kUplinkResolver) : text;
}

std::string nodeHosts(std::string_view hostText, bool uplink) {
  std::string text(hostText);
  if (!uplink) return text;
  if (!text.empty() && text.back() != '\n') text += '\n';
  return text + std::string(kUplinkHost) + "\t" + std::string(kHostName) + "\n";
}

bool namesUplinkResolver(std::string_view nodeText) {
  auto servers = serversOf(nodeText);
  return !servers.empty() && servers.back() == kUplinkResolver;
}

std::string podResolvConf(std::string_view nodeText) {
  bool uplink = namesUplinkResolver(nodeText);
  auto servers = serversOf(nodeText);
  if (uplink) servers.pop_back();
  bool v4 = std::any_of(servers.begin(), servers.end(), [](const auto& server) { return asV4(server).has_value(); });
  std::string text;
  for (const auto& server : servers)
    if (isReachable(server) && (!uplink || !v4)) text += serverLine(server);
  if (uplink) text += serverLine(kUplinkResolver);
  for (const auto& line : linesOf(nodeText))
    if (hasKey(line, "search") || hasKey(line, "domain") || hasKey(line, "options")) text += line + "\n";
  return text;
}

std::string podResolvConf() {
  auto text = readFile("/etc/resolv.conf", 64 << 10);
  return podResolvConf(text ? std::string_view(*text) : std::string_view());
}

}  // namespace userpod

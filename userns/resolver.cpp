#include "userns/resolver.hpp"

#include <arpa/inet.h>

#include <optional>
#include <vector>

#include "daemon/sys/fd.hpp"
#include "daemon/sys/util.hpp"

namespace userpod {
namespace {

// The address of a "nameserver" line.
std::optional<std::string> serverOf(std::string_view line) {
  constexpr std::string_view kKey = "nameserver";
  line = trim(line);
  if (!line.starts_with(kKey) || line.size() == kKey.size()) return std::nullopt;
  if (line[kKey.size()] != ' ' && line[kKey.size()] != '\t') return std::nullopt;
  std::string_view rest = trim(line.substr(kKey.size()));
  return std::string(rest.substr(0, rest.find_first_of(" \t#;")));
}

bool isReachableV4(const std::string& server) {
  in_addr address{};
  return ::inet_pton(AF_INET, server.c_str(), &address) == 1 && (ntohl(address.s_addr) >> 24) != 127 &&
         address.s_addr != INADDR_ANY;
}

// IPv6 servers stay unless they are loopback or bound to a link of the host.
bool isReachable(const std::string& server) {
  in6_addr address{};
  if (isReachableV4(server)) return true;
  if (::inet_pton(AF_INET6, server.c_str(), &address) != 1) return false;  // also "fe80::1%eth0"
  return !IN6_IS_ADDR_LOOPBACK(&address) && !IN6_IS_ADDR_UNSPECIFIED(&address) && !IN6_IS_ADDR_LINKLOCAL(&address);
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

}  // namespace

bool needsUplinkResolver(std::string_view resolvConf) {
  for (const auto& line : linesOf(resolvConf))
    if (auto server = serverOf(line); server && isReachableV4(*server)) return false;
  return true;
}

std::string resolvConfWithUplink(std::string_view resolvConf) {
  constexpr int kKeep = 2;  // glibc reads three servers (MAXNS)
  std::string text;
  int servers = 0;
  for (const auto& line : linesOf(resolvConf))
    if (!serverOf(line) || ++servers <= kKeep) text += line + "\n";
  return text + serverLine(kUplinkResolver);
}

std::string nodeResolvConf(std::string_view resolvConf) {
  std::string text = needsUplinkResolver(resolvConf) ? serverLine(kUplinkResolver) : std::string();
  for (const auto& line : linesOf(resolvConf)) {
    auto server = serverOf(line);
    if (!server || isReachable(*server)) text += line + "\n";
  }
  return text;
}

std::string nodeResolvConf() {
  auto text = readFile("/etc/resolv.conf", 64 << 10);
  return nodeResolvConf(text ? std::string_view(*text) : std::string_view());
}

}  // namespace userpod

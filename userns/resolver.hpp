// Name service in the node and its pods: the texts of resolv.conf and hosts. Pure, but for the functions that say so.
#pragma once

#include <string>
#include <string_view>

namespace userpod {

// The resolver that the uplink offers in the node's network; it asks the first IPv4 server that the host's resolv.conf
// names, a loopback one too.
constexpr std::string_view kUplinkResolver = "10.0.2.3";
// Leads to the host: with host-loopback to its 127.0.0.1, else to its main address.
constexpr std::string_view kUplinkHost = "10.0.2.2";
constexpr std::string_view kHostName = "host.userpod.internal";

// The first name server of each family, empty without one. "fe80::1%eth0", bound to a link, is none.
struct NameServers {
  std::string v4;
  std::string v6;
  bool operator==(const NameServers&) const = default;
};
NameServers nameServers(std::string_view resolvConf);

// The node's own /etc/resolv.conf, from the host's. With an uplink its resolver is the last server that glibc reads,
// not the first: the daemon shares this file but lives in the host's network, where only the others answer. In the
// node's network a loopback server before it costs nothing: its closed port refuses at once.
std::string nodeResolvConf(std::string_view hostText, bool uplink);
// The node's own /etc/hosts, from the host's: with an uplink it names the host.
std::string nodeHosts(std::string_view hostText, bool uplink);

// Whether a text of nodeResolvConf() was made for a node with an uplink.
bool namesUplinkResolver(std::string_view nodeText);
// resolv.conf for pods, from the node's: the uplink's resolver, which follows the host; in a node without uplink, the
// servers that are not loopback. Servers with IPv6 addresses come first where the host has no others, as the uplink's
// asks IPv4 servers only. search, domain and options are the host's.
std::string podResolvConf(std::string_view nodeText);
// The same of /etc/resolv.conf as it is now (an unreadable one counts as empty): to be called in the node.
std::string podResolvConf();

}  // namespace userpod

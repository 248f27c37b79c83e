// Name servers for what lives in the node's network, where the host's loopback is not.
#pragma once

#include <string>
#include <string_view>

namespace userpod {

// The resolver that slirp4netns offers in the node's network; it asks whatever the host's resolv.conf names at the
// time.
constexpr std::string_view kUplinkResolver = "10.0.2.3";

// Whether none of the host's name servers can be reached from the node over IPv4: all are loopback, link-local or IPv6.
bool needsUplinkResolver(std::string_view resolvConf);

// The node's own /etc/resolv.conf: the host's lines and the uplink's resolver as the last server that glibc reads.
std::string resolvConfWithUplink(std::string_view resolvConf);

// resolv.conf for pods, from a text such as the node's /etc/resolv.conf: servers that the node cannot reach left out,
// the uplink's in their place when none is left; search, options and all other lines kept.
std::string nodeResolvConf(std::string_view resolvConf);
// The same of /etc/resolv.conf as it is now (an unreadable one counts as empty). Works in the node and on the host.
std::string nodeResolvConf();

}  // namespace userpod

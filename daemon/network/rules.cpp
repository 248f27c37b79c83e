#include "daemon/network/rules.hpp"

#include <fmt/core.h>
#include <fmt/ranges.h>

namespace userpod::network {
namespace {

std::string_view protocolName(const PortMapping& port) {
  return port.protocol == 1 ? "udp" : "tcp";
}

bool everyAddress(const std::string& hostIp) {
  return hostIp.empty() || hostIp == "0.0.0.0" || hostIp == "::";
}

std::string element(const char* verb, const char* map, const std::string& key, const std::string& value) {
  return fmt::format("{} element inet userpod {} {{ {}{}{} }}\n", verb, map, key, value.empty() ? "" : " : ", value);
}

// One family's elements: those of one address are in maps of their own.
std::string portElements(const char* verb, const std::vector<PortMapping>& ports, const std::string& pod, bool v6) {
  std::string text;
  for (const auto& port : ports) {
    if (port.hostPort == 0) continue;
    bool every = everyAddress(port.hostIp);
    if (!every && (port.hostIp.find(':') != std::string::npos) != v6) continue;
    std::string key = fmt::format("{} . {}", protocolName(port), port.hostPort);
    const char* map = every ? (v6 ? "ports6" : "ports4") : (v6 ? "address_ports6" : "address_ports4");
    text +=
        element(verb, map, every ? key : port.hostIp + " . " + key, fmt::format("{} . {}", pod, port.containerPort));
  }
  return text.empty() ? text : text + element(verb, v6 ? "published6" : "published4", pod, "");
}

std::string portElements(const char* verb, const std::vector<PortMapping>& ports,
                         const std::vector<std::string>& addresses) {
  auto pod = firstOfEach(addresses);
  return (pod.v4.empty() ? "" : portElements(verb, ports, pod.v4, false)) +
         (pod.v6.empty() ? "" : portElements(verb, ports, pod.v6, true));
}

std::string guardElements(const char* verb, const Port& port, const Subnets& subnets, bool neighbours) {
  std::string mac = macText(port.address);
  std::string text = fmt::format(
      "{0} element bridge userpod macs {{ \"{1}\" . {2} }}\n{0} element bridge userpod pods {{ \"{1}\" . {2} . {3} "
      "}}\n",
      verb, port.link, mac, addressText(port.address));
  if (!subnets.v6) return text;
  std::string address = addressText(port.address6(subnets));
  text += fmt::format("{} element bridge userpod pods6 {{ \"{}\" . {} . {} }}\n", verb, port.link, mac, address);
  if (neighbours)
    text += fmt::format("{} element bridge userpod neighbours {{ \"{}\" . 0x{:02x} }}\n", verb, port.link,
                        fmt::join(port.address6(subnets), ""));
  return text;
}

// Addresses by which an uplink, a process of the host, would reach what listens on the host's loopback: of IPv6 the
// unspecified and the loopback address, and those that stand for IPv4 ones.
std::string uplinkDrops(const char* chain) {
  std::string text;
  for (const char* destination :
       {"ip daddr 127.0.0.0/8", "ip daddr 0.0.0.0/8", "ip6 daddr ::/96", "ip6 daddr ::ffff:0:0/96"})
    text += fmt::format("add rule {} {} drop\n", chain, destination);
  return text;
}

}  // namespace

Addresses firstOfEach(const std::vector<std::string>& addresses) {
  Addresses first;
  for (const auto& address : addresses) {
    std::string& of = address.find(':') == std::string::npos ? first.v4 : first.v6;
    if (of.empty()) of = address;
  }
  return first;
}

std::string loopbackRules() {
  return R"(add table inet userpod
add chain inet userpod loopback { type filter hook prerouting priority raw; policy accept; }
add chain inet userpod uplink { type filter hook postrouting priority mangle; policy accept; }
flush chain inet userpod loopback
flush chain inet userpod uplink
add rule inet userpod loopback iifname != "lo" ip daddr 127.0.0.0/8 drop
add rule inet userpod uplink oifname != "tap0" accept
)" + uplinkDrops("inet userpod uplink");
}

std::string egressRules() {
  return R"(add table netdev userpod
add chain netdev userpod uplink { type filter hook egress device "tap0" priority 0; policy accept; }
flush chain netdev userpod uplink
add rule netdev userpod uplink ether type 8021q drop
add rule netdev userpod uplink ether type 8021ad drop
)" + uplinkDrops("netdev userpod uplink");
}

std::string replyRules() {
  return fmt::format(R"(add table inet userpod
add chain inet userpod reply_in {{ type filter hook prerouting priority mangle; policy accept; }}
add chain inet userpod forwarded {{ type filter hook output priority mangle; policy accept; }}
add chain inet userpod reply_out {{ type route hook output priority mangle; policy accept; }}
flush chain inet userpod reply_in
flush chain inet userpod forwarded
flush chain inet userpod reply_out
add rule inet userpod reply_in ct direction reply ct mark {0:#x} meta mark set {1:#x}
add rule inet userpod forwarded meta mark {0:#x} ct mark set {0:#x}
add rule inet userpod reply_out ct direction reply ct mark {0:#x} meta mark set {1:#x}
)",
                     kForwardedMark, kReplyMark);
}

std::string portRules() {
  std::string text = R"(add table inet userpod
add map inet userpod ports4 { type inet_proto . inet_service : ipv4_addr . inet_service; }
add map inet userpod ports6 { type inet_proto . inet_service : ipv6_addr . inet_service; }
add map inet userpod address_ports4 { type ipv4_addr . inet_proto . inet_service : ipv4_addr . inet_service; }
add map inet userpod address_ports6 { type ipv6_addr . inet_proto . inet_service : ipv6_addr . inet_service; }
add set inet userpod published4 { type ipv4_addr; }
add set inet userpod published6 { type ipv6_addr; }
add map inet userpod host { type ipv4_addr : ipv4_addr; }
add chain inet userpod prerouting { type nat hook prerouting priority dstnat; policy accept; }
add chain inet userpod output { type nat hook output priority -100; policy accept; }
add chain inet userpod ports_postrouting { type nat hook postrouting priority srcnat; policy accept; }
flush chain inet userpod prerouting
flush chain inet userpod output
flush chain inet userpod ports_postrouting
)";
  // IPv6 has no route_localnet: what is sent to ::1 reaches its pod by userpod-ports only.
  text += fmt::format(
      "add rule inet userpod output meta mark {:#x} accept\nadd rule inet userpod output ip6 daddr ::1 accept\n",
      kForwardedMark);
  for (const char* chain : {"prerouting", "output"})
    text += fmt::format(R"(add rule inet userpod {0} dnat ip to ip daddr map @host
add rule inet userpod {0} fib daddr type local dnat ip to ip daddr . meta l4proto . th dport map @address_ports4
add rule inet userpod {0} fib daddr type local dnat ip to meta l4proto . th dport map @ports4
add rule inet userpod {0} fib daddr type local dnat ip6 to ip6 daddr . meta l4proto . th dport map @address_ports6
add rule inet userpod {0} fib daddr type local dnat ip6 to meta l4proto . th dport map @ports6
)",
                        chain);
  return text + fmt::format(R"(add rule inet userpod ports_postrouting meta mark {:#x} accept
add rule inet userpod ports_postrouting ct status dnat ip saddr 127.0.0.0/8 masquerade
add rule inet userpod ports_postrouting ct status dnat ip daddr @published4 masquerade
add rule inet userpod ports_postrouting ct status dnat ip6 daddr @published6 masquerade
)",
                            kForwardedMark);
}

std::string natRules(const Subnets& subnets) {
  std::string text = R"(add table inet userpod
add chain inet userpod postrouting { type nat hook postrouting priority srcnat; policy accept; }
flush chain inet userpod postrouting
)";
  auto add = [&](const char* family, const std::string& subnet) {
    text += fmt::format(
        "add rule inet userpod postrouting ct status dnat oifname \"{2}\" {0} saddr {1} masquerade\n"
        "add rule inet userpod postrouting {0} saddr {1} oifname != \"{2}\" masquerade\n",
        family, subnet, kBridge);
  };
  add("ip", subnets.v4.text());
  if (subnets.v6) add("ip6", subnets.v6->text());
  return text;
}

std::string guardRules(bool ipv6) {
  // Ports of the bridge are named up<hex>; other bridges of the node are not ours. Router advertisements could redirect
  // the neighbours. What is neither IP nor ARP is dropped: a tag of VLAN 0 would hide both from the rules, not from the
  // receiver. No anonymous set of ranges: libnftables would read its elements back at each later command.
  std::string text = R"(add table bridge userpod
add set bridge userpod macs { type ifname . ether_addr; }
add set bridge userpod pods { type ifname . ether_addr . ipv4_addr; }
add chain bridge userpod prerouting { type filter hook prerouting priority -300; policy accept; }
flush chain bridge userpod prerouting
add rule bridge userpod prerouting iifname != "up*" accept
add rule bridge userpod prerouting iifname . ether saddr != @macs drop
add rule bridge userpod prerouting ether type ip iifname . ether saddr . ip saddr != @pods drop
add rule bridge userpod prerouting ether type ip accept
add rule bridge userpod prerouting ether type arp iifname . ether saddr . arp saddr ip != @pods drop
add rule bridge userpod prerouting ether type arp accept
add rule bridge userpod prerouting ether type != ip6 drop
add rule bridge userpod prerouting ether type ip6 icmpv6 type nd-router-advert drop
add rule bridge userpod prerouting ether type ip6 icmpv6 type nd-redirect drop
add rule bridge userpod prerouting ether type ip6 ip6 saddr :: accept
)";
  if (!ipv6) return text + "add rule bridge userpod prerouting ether type ip6 ip6 saddr != fe80::/10 drop\n";
  // The bridge takes link-local sources for what a pod that gave itself such an address needs of its own link.
  return R"(add table bridge userpod
add set bridge userpod pods6 { type ifname . ether_addr . ipv6_addr; }
)" + text +
         "add rule bridge userpod prerouting ether type ip6 ip6 saddr != fe80::/10 "
         "iifname . ether saddr . ip6 saddr != @pods6 drop\n";
}

std::string neighbourRules() {
  // The target address of an advertisement is bits 64 to 191 of ICMPv6: nftables has a name for it from 1.0.8 on only.
  return R"(add table bridge userpod
add set bridge userpod neighbours { typeof iifname . @th,64,128; }
add chain bridge userpod neighbour { type filter hook prerouting priority -299; policy accept; }
flush chain bridge userpod neighbour
add rule bridge userpod neighbour iifname "up*" icmpv6 type nd-neighbor-advert @th,64,16 != 0xfe80 iifname . @th,64,128 != @neighbours drop
)";
}

std::string guardAdd(const Port& port, const Subnets& subnets, bool neighbours) {
  return guardElements("add", port, subnets, neighbours);
}

std::string guardRemove(const Port& port, const Subnets& subnets, bool neighbours) {
  // Deleting an absent element fails, adding a present one does not: so both, in one transaction.
  return guardAdd(port, subnets, neighbours) + guardElements("delete", port, subnets, neighbours);
}

std::string guardFlush(bool ipv6, bool neighbours) {
  return std::string("flush set bridge userpod macs\nflush set bridge userpod pods\n") +
         (ipv6 ? "flush set bridge userpod pods6\n" : "") + (neighbours ? "flush set bridge userpod neighbours\n" : "");
}

std::string portsAdd(const std::vector<PortMapping>& ports, const std::vector<std::string>& addresses) {
  return portElements("add", ports, addresses);
}

std::string portsRemove(const std::vector<PortMapping>& ports, const std::vector<std::string>& addresses) {
  return portsAdd(ports, addresses) + portElements("delete", ports, addresses);
}

std::string portsFlush() {
  std::string text;
  for (const char* map : {"ports4", "ports6", "address_ports4", "address_ports6"})
    text += fmt::format("flush map inet userpod {}\n", map);
  return text + "flush set inet userpod published4\nflush set inet userpod published6\n";
}

std::string hostAddressRules(const std::string& address) {
  std::string text = "flush map inet userpod host\n";
  return address.empty() ? text : text + element("add", "host", "10.0.2.2", address);
}

}  // namespace userpod::network

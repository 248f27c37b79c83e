#include "daemon/network/bridge.hpp"

#include <arpa/inet.h>
#include <fmt/core.h>
#include <fmt/ranges.h>
#include <linux/if_addr.h>
#include <linux/if_link.h>
#include <linux/rtnetlink.h>
#include <linux/veth.h>
#include <net/if.h>

#include <array>
#include <cerrno>
#include <memory>

#include "daemon/sys/fd.hpp"
#include "daemon/sys/util.hpp"

namespace userpod::network {
namespace {

// The uplink's: with a smaller one each large packet to the outside would be cut for nothing (slirp4netns carries a
// quarter at 1500).
constexpr std::uint32_t kMtu = 65520;
constexpr int kLoopbackIndex = 1;
constexpr Address6 kLinkLocal = {0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1};

// Locally administered, with the address in it.
std::array<std::uint8_t, 6> mac(std::uint32_t address) {
  return {0x0a,
          0x58,
          static_cast<std::uint8_t>(address >> 24),
          static_cast<std::uint8_t>(address >> 16),
          static_cast<std::uint8_t>(address >> 8),
          static_cast<std::uint8_t>(address)};
}

void putMac(NetlinkBatch& batch, std::uint32_t address) {
  auto bytes = mac(address);
  batch.put(IFLA_ADDRESS, bytes.data(), bytes.size());
}

// No link-local address of its own: nobody uses it, and duplicate address detection would delay it.
void setNoAutoAddress(NetlinkBatch& batch, const std::string& link) {
  batch.begin<ifinfomsg>(RTM_NEWLINK, 0, "set address generation of " + link).ifi_family = AF_UNSPEC;
  batch.putText(IFLA_IFNAME, link);
  batch.openNest(IFLA_AF_SPEC);
  batch.openNest(AF_INET6);
  batch.putU8(IFLA_INET6_ADDR_GEN_MODE, IN6_ADDR_GEN_MODE_NONE);
  batch.closeNest();
  batch.closeNest();
}

void setUp(NetlinkBatch& batch, int index, const std::string& link) {
  auto& info = batch.begin<ifinfomsg>(RTM_NEWLINK, 0, "set link " + link + " up");
  info.ifi_index = index;
  info.ifi_flags = IFF_UP;
  info.ifi_change = IFF_UP;
  if (index == 0) batch.putText(IFLA_IFNAME, link);
}

struct Family {
  std::uint8_t family;
  std::uint8_t prefix;
  std::size_t size;  // of an address
};

// Without duplicate address detection: who has which address is known, and it would take a second.
void addAddress(NetlinkBatch& batch, unsigned index, Family family, const void* address, const std::string& what) {
  auto& body = batch.begin<ifaddrmsg>(RTM_NEWADDR, NLM_F_CREATE | NLM_F_REPLACE, "add address " + what);
  body.ifa_family = family.family;
  body.ifa_prefixlen = family.prefix;
  body.ifa_flags = family.family == AF_INET6 ? IFA_F_NODAD : 0;
  body.ifa_scope = RT_SCOPE_UNIVERSE;
  body.ifa_index = index;
  batch.put(IFA_LOCAL, address, family.size);
  batch.put(IFA_ADDRESS, address, family.size);
}

void addAddress(NetlinkBatch& batch, unsigned index, std::uint32_t address, const Subnet& subnet,
                const std::string& link) {
  std::uint32_t bytes = htonl(address);
  addAddress(batch, index, {AF_INET, static_cast<std::uint8_t>(subnet.prefix), sizeof bytes}, &bytes,
             addressText(address) + " to " + link);
  batch.putU32(IFA_BROADCAST, htonl(subnet.last()));
}

void addAddress(NetlinkBatch& batch, unsigned index, const Address6& address, const Subnet6& subnet,
                const std::string& link) {
  addAddress(batch, index, {AF_INET6, static_cast<std::uint8_t>(subnet.prefix), address.size()}, address.data(),
             addressText(address) + " to " + link);
}

void addDefaultRoute(NetlinkBatch& batch, unsigned index, std::uint8_t family, const void* gateway, std::size_t size) {
  auto& route = batch.begin<rtmsg>(RTM_NEWROUTE, NLM_F_CREATE | NLM_F_EXCL, "add default route");
  route.rtm_family = family;
  route.rtm_table = RT_TABLE_MAIN;
  route.rtm_protocol = RTPROT_STATIC;
  route.rtm_scope = RT_SCOPE_UNIVERSE;
  route.rtm_type = RTN_UNICAST;
  batch.put(RTA_GATEWAY, gateway, size);
  batch.putU32(RTA_OIF, index);
}

// A reply from the bridge to its own port lets a pod reach itself through an address translated to it.
void setHairpin(NetlinkBatch& batch, const std::string& link) {
  batch.begin<ifinfomsg>(RTM_NEWLINK, 0, "set hairpin of " + link).ifi_family = AF_UNSPEC;
  batch.putText(IFLA_IFNAME, link);
  batch.openNest(IFLA_LINKINFO);
  batch.putText(IFLA_INFO_SLAVE_KIND, "bridge");
  batch.openNest(IFLA_INFO_SLAVE_DATA);
  batch.putU8(IFLA_BRPORT_MODE, 1);
  batch.closeNest();
  batch.closeNest();
}

}  // namespace

std::string macText(std::uint32_t address) {
  auto bytes = mac(address);
  return fmt::format("{:02x}", fmt::join(bytes, ":"));
}

Bridge::Bridge(Netlink node, const Subnets& subnets)
    : node_(std::move(node)), subnets_(subnets), ipv6_(pathExists("/proc/sys/net/ipv6")) {}

Result<Bridge> Bridge::open(const Subnets& subnets) {
  USERPOD_TRY(socket, Netlink::open());
  Bridge bridge(std::move(socket), subnets);
  USERPOD_CHECK(bridge.makeBridge());
  // A host may have set these for every new namespace: say what we rely on. The bridge's port to the pods is strict.
  USERPOD_CHECK(writeFile("/proc/sys/net/ipv4/ip_forward", "1"));
  USERPOD_CHECK(writeFile("/proc/sys/net/ipv4/conf/all/rp_filter", "0"));
  USERPOD_CHECK(writeFile("/proc/sys/net/ipv4/conf/default/rp_filter", "0"));
  USERPOD_CHECK(writeFile(fmt::format("/proc/sys/net/ipv4/conf/{}/rp_filter", kBridge), "1"));
  if (subnets.v6) USERPOD_CHECK(writeFile("/proc/sys/net/ipv6/conf/all/forwarding", "1"));
  return bridge;
}

Status Bridge::makeBridge() {
  auto known = node_.linkIndex(kBridge);
  if (!known && known.error().sysErrno() != ENODEV) return std::move(known).error();
  NetlinkBatch batch;
  if (!known) {
    batch.begin<ifinfomsg>(RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, std::string("add bridge ") + kBridge);
    batch.putText(IFLA_IFNAME, kBridge);
    // Given, as else the bridge takes the lowest of its ports' and changes when pods come and go.
    putMac(batch, subnets_.v4.gateway());
    batch.putU32(IFLA_MTU, kMtu);
    batch.openNest(IFLA_LINKINFO);
    batch.putText(IFLA_INFO_KIND, "bridge");
    batch.closeNest();
    if (ipv6_) setNoAutoAddress(batch, kBridge);
  }
  setUp(batch, 0, kBridge);
  USERPOD_CHECK(node_.run(batch));
  USERPOD_TRY(index, node_.linkIndex(kBridge));
  index_ = index;
  NetlinkBatch address;
  addAddress(address, index_, subnets_.v4.gateway(), subnets_.v4, kBridge);
  if (subnets_.v6) {
    addAddress(address, index_, subnets_.v6->at(1), *subnets_.v6, kBridge);
    // Without one the node cannot ask for a pod's hardware address in the name of somebody else: a host port's client.
    addAddress(address, index_, kLinkLocal, {kLinkLocal, 64}, kBridge);
  }
  return node_.run(address);
}

void Bridge::addVeth(NetlinkBatch& batch, const Port& port, int podNamespace) const {
  batch.begin<ifinfomsg>(RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, "add veth " + port.link);
  batch.putText(IFLA_IFNAME, port.link);
  batch.putU32(IFLA_MTU, kMtu);
  batch.putU32(IFLA_MASTER, index_);
  batch.openNest(IFLA_LINKINFO);
  batch.putText(IFLA_INFO_KIND, "veth");
  batch.openNest(IFLA_INFO_DATA);
  batch.openNest(VETH_INFO_PEER);
  batch.raw<ifinfomsg>();
  batch.putText(IFLA_IFNAME, "eth0");
  putMac(batch, port.address);
  batch.putU32(IFLA_MTU, kMtu);
  batch.putU32(IFLA_NET_NS_FD, static_cast<std::uint32_t>(podNamespace));
  batch.closeNest();
  batch.closeNest();
  batch.closeNest();
}

Status Bridge::attach(const Port& port, Netlink& pod, int podNamespace) {
  NetlinkBatch node;
  addVeth(node, port, podNamespace);
  if (ipv6_) setNoAutoAddress(node, port.link);
  setHairpin(node, port.link);
  setUp(node, 0, port.link);
  USERPOD_CHECK(node_.run(node));
  auto index = pod.linkIndex("eth0");
  if (!index) return std::move(index).error().wrap("in the pod");
  NetlinkBatch inside;
  setUp(inside, kLoopbackIndex, "lo");
  if (ipv6_) setNoAutoAddress(inside, "eth0");
  setUp(inside, static_cast<int>(*index), "eth0");
  addAddress(inside, *index, port.address, subnets_.v4, "eth0");
  std::uint32_t gateway = htonl(subnets_.v4.gateway());
  addDefaultRoute(inside, *index, AF_INET, &gateway, sizeof gateway);
  if (subnets_.v6) {
    addAddress(inside, *index, port.address6(subnets_), *subnets_.v6, "eth0");
    auto gateway6 = subnets_.v6->at(1);
    addDefaultRoute(inside, *index, AF_INET6, gateway6.data(), gateway6.size());
  }
  if (auto done = pod.run(inside); !done) return std::move(done).error().wrap("in the pod");
  return {};
}

Result<std::vector<std::string>> linksOfPods() {
  constexpr std::size_t kLength = IFNAMSIZ - 1;  // of linkName()
  constexpr std::string_view kPrefix = "up";
  std::unique_ptr<struct if_nameindex, void (*)(struct if_nameindex*)> all(::if_nameindex(), &::if_freenameindex);
  if (!all) return sysError("list the links of the node");
  std::vector<std::string> found;
  for (const auto* link = all.get(); link->if_name != nullptr; ++link) {
    std::string_view name = link->if_name;
    if (name.size() == kLength && name.starts_with(kPrefix) && isHex(name.substr(kPrefix.size())))
      found.emplace_back(name);
  }
  return found;
}

Status deleteLink(const std::string& name) {
  USERPOD_TRY(socket, Netlink::open());
  NetlinkBatch batch;
  batch.begin<ifinfomsg>(RTM_DELLINK, 0, "delete link " + name).ifi_family = AF_UNSPEC;
  batch.putText(IFLA_IFNAME, name);
  auto deleted = socket.run(batch);
  return !deleted && deleted.error().sysErrno() == ENODEV ? Status() : deleted;
}

}  // namespace userpod::network

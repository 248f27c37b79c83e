#include "daemon/network/bridge.hpp"

#include <arpa/inet.h>
#include <fmt/core.h>
#include <linux/if_link.h>
#include <linux/rtnetlink.h>
#include <linux/veth.h>
#include <net/if.h>

#include <array>
#include <cerrno>

#include "daemon/sys/fd.hpp"

namespace userpod::network {
namespace {

// The uplink's: with a smaller one each large packet to the outside would be cut for nothing (slirp4netns carries a
// quarter at 1500).
constexpr std::uint32_t kMtu = 65520;
constexpr int kLoopbackIndex = 1;

// The bytes that macText writes.
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

void addAddress(NetlinkBatch& batch, unsigned index, std::uint32_t address, const Subnet& subnet,
                const std::string& link) {
  auto& body = batch.begin<ifaddrmsg>(RTM_NEWADDR, NLM_F_CREATE | NLM_F_REPLACE,
                                      "add address " + addressText(address) + " to " + link);
  body.ifa_family = AF_INET;
  body.ifa_prefixlen = static_cast<std::uint8_t>(subnet.prefix);
  body.ifa_scope = RT_SCOPE_UNIVERSE;
  body.ifa_index = index;
  batch.putU32(IFA_LOCAL, htonl(address));
  batch.putU32(IFA_ADDRESS, htonl(address));
  batch.putU32(IFA_BROADCAST, htonl(subnet.last()));
}

void addDefaultRoute(NetlinkBatch& batch, unsigned index, std::uint32_t gateway) {
  auto& route = batch.begin<rtmsg>(RTM_NEWROUTE, NLM_F_CREATE | NLM_F_EXCL, "add default route");
  route.rtm_family = AF_INET;
  route.rtm_table = RT_TABLE_MAIN;
  route.rtm_protocol = RTPROT_STATIC;
  route.rtm_scope = RT_SCOPE_UNIVERSE;
  route.rtm_type = RTN_UNICAST;
  batch.putU32(RTA_GATEWAY, htonl(gateway));
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

Bridge::Bridge(Netlink node, const Subnet& subnet)
    : node_(std::move(node)), subnet_(subnet), ipv6_(pathExists("/proc/sys/net/ipv6")) {}

Result<Bridge> Bridge::open(const Subnet& subnet) {
  USERPOD_TRY(socket, Netlink::open());
  Bridge bridge(std::move(socket), subnet);
  USERPOD_CHECK(bridge.makeBridge());
  // A host may have set these for every new namespace: say what we rely on. The bridge's port to the pods is strict.
  USERPOD_CHECK(writeFile("/proc/sys/net/ipv4/ip_forward", "1"));
  USERPOD_CHECK(writeFile("/proc/sys/net/ipv4/conf/all/rp_filter", "0"));
  USERPOD_CHECK(writeFile("/proc/sys/net/ipv4/conf/default/rp_filter", "0"));
  USERPOD_CHECK(writeFile(fmt::format("/proc/sys/net/ipv4/conf/{}/rp_filter", kBridge), "1"));
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
    putMac(batch, subnet_.gateway());
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
  addAddress(address, index_, subnet_.gateway(), subnet_, kBridge);
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
  addAddress(inside, *index, port.address, subnet_, "eth0");
  addDefaultRoute(inside, *index, subnet_.gateway());
  if (auto done = pod.run(inside); !done) return std::move(done).error().wrap("in the pod");
  return {};
}

}  // namespace userpod::network

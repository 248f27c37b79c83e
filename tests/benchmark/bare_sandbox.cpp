#include "tests/benchmark/bare_sandbox.hpp"

#include <arpa/inet.h>
#include <fmt/core.h>
#include <linux/if_link.h>
#include <linux/rtnetlink.h>
#include <linux/veth.h>
#include <net/if.h>
#include <sched.h>
#include <sys/mount.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <thread>

#include "daemon/sys/mount.hpp"

namespace userpod::bench {
namespace {

constexpr const char* kBridge = "ubench";
constexpr std::array kNamespaces = {"net", "ipc", "uts"};
constexpr int kLoopbackIndex = 1;
constexpr unsigned kGateway = 1;       // pods follow
constexpr std::uint32_t kMtu = 65520;  // the product's

// 10.201.0.0/16 and fd75:7365:7270::/64 stay within the bridge: no traffic leaves it.
in_addr address4(unsigned number) {
  return {htonl((10U << 24) + (201U << 16) + number)};
}
in6_addr address6(unsigned number) {
  in6_addr address{};
  constexpr std::array<std::uint8_t, 6> kPrefix = {0xfd, 0x75, 0x73, 0x65, 0x72, 0x70};
  std::copy(kPrefix.begin(), kPrefix.end(), address.s6_addr);
  address.s6_addr[14] = static_cast<std::uint8_t>(number >> 8);
  address.s6_addr[15] = static_cast<std::uint8_t>(number);
  return address;
}

// setns is for a thread that ends: its socket stays in the namespace.
Result<Netlink> openInNode(const NodeInside& node) {
  Result<Netlink> socket = Error(Code::Internal, "no netlink socket");
  std::thread([&] {
    if (::setns(node.networkNamespace.get(), CLONE_NEWNET) < 0)
      socket = sysError("join the node's network");
    else
      socket = Netlink::open();
  }).join();
  return socket;
}

void addVeth(NetlinkBatch& batch, const std::string& link, unsigned bridge, int podNamespace) {
  auto& info = batch.begin<ifinfomsg>(RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, "add veth " + link);
  info.ifi_flags = IFF_UP;
  info.ifi_change = IFF_UP;
  batch.putText(IFLA_IFNAME, link);
  batch.putU32(IFLA_MTU, kMtu);
  batch.putU32(IFLA_MASTER, bridge);
  batch.openNest(IFLA_LINKINFO);
  batch.putText(IFLA_INFO_KIND, "veth");
  batch.openNest(IFLA_INFO_DATA);
  batch.openNest(VETH_INFO_PEER);
  batch.raw<ifinfomsg>();
  batch.putText(IFLA_IFNAME, "eth0");
  batch.putU32(IFLA_MTU, kMtu);
  batch.putU32(IFLA_NET_NS_FD, static_cast<std::uint32_t>(podNamespace));
  batch.closeNest();
  batch.closeNest();
  batch.closeNest();
}

void setUp(NetlinkBatch& batch, unsigned index, const std::string& link, bool noAutoAddress) {
  auto& info = batch.begin<ifinfomsg>(RTM_NEWLINK, 0, "set link " + link + " up");
  info.ifi_index = static_cast<int>(index);
  info.ifi_flags = IFF_UP;
  info.ifi_change = IFF_UP;
  if (!noAutoAddress) return;
  batch.openNest(IFLA_AF_SPEC);
  batch.openNest(AF_INET6);
  batch.putU8(IFLA_INET6_ADDR_GEN_MODE, IN6_ADDR_GEN_MODE_NONE);
  batch.closeNest();
  batch.closeNest();
}

template <typename Address>
void addAddress(NetlinkBatch& batch, unsigned index, std::uint8_t family, std::uint8_t prefix, const Address& address) {
  auto& body = batch.begin<ifaddrmsg>(RTM_NEWADDR, NLM_F_CREATE | NLM_F_EXCL, "add address");
  body.ifa_family = family;
  body.ifa_prefixlen = prefix;
  body.ifa_flags = IFA_F_NODAD;
  body.ifa_index = index;
  batch.put(IFA_LOCAL, &address, sizeof(address));
  batch.put(IFA_ADDRESS, &address, sizeof(address));
}

template <typename Address>
void addRoute(NetlinkBatch& batch, unsigned index, std::uint8_t family, const Address& gateway) {
  auto& route = batch.begin<rtmsg>(RTM_NEWROUTE, NLM_F_CREATE | NLM_F_EXCL, "add default route");
  route.rtm_family = family;
  route.rtm_table = RT_TABLE_MAIN;
  route.rtm_protocol = RTPROT_STATIC;
  route.rtm_scope = RT_SCOPE_UNIVERSE;
  route.rtm_type = RTN_UNICAST;
  batch.put(RTA_GATEWAY, &gateway, sizeof(gateway));
  batch.putU32(RTA_OIF, index);
}

}  // namespace

BareSandboxes::BareSandboxes(Netlink node, std::string directory)
    : node_(std::move(node)), directory_(std::move(directory)), ipv6_(pathExists("/proc/sys/net/ipv6")) {}

Result<std::unique_ptr<BareSandboxes>> BareSandboxes::open(const NodeInside& node, std::string directory) {
  USERPOD_CHECK(makeDirectories(directory, 0700));
  USERPOD_CHECK(mountFilesystem("tmpfs", "userpod-bench", directory, MS_NOSUID | MS_NODEV | MS_NOEXEC, "mode=0700"));
  USERPOD_CHECK(setPropagation(directory, MS_PRIVATE));
  USERPOD_TRY(socket, openInNode(node));
  std::unique_ptr<BareSandboxes> sandboxes(new BareSandboxes(std::move(socket), std::move(directory)));
  USERPOD_CHECK(sandboxes->makeBridge());
  return sandboxes;
}

Status BareSandboxes::makeBridge() {
  NetlinkBatch batch;
  auto& info = batch.begin<ifinfomsg>(RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, std::string("add bridge ") + kBridge);
  info.ifi_flags = IFF_UP;
  info.ifi_change = IFF_UP;
  batch.putText(IFLA_IFNAME, kBridge);
  batch.putU32(IFLA_MTU, kMtu);
  batch.openNest(IFLA_LINKINFO);
  batch.putText(IFLA_INFO_KIND, "bridge");
  batch.closeNest();
  USERPOD_CHECK(node_.run(batch));
  USERPOD_TRY(index, node_.linkIndex(kBridge));
  bridge_ = index;
  return {};
}

std::string BareSandboxes::pin(unsigned number, const std::string& name) const {
  return fmt::format("{}/{}/{}", directory_, number, name);
}

std::string BareSandboxes::address(unsigned number) const {
  std::array<char, INET_ADDRSTRLEN> text{};
  in_addr address = address4(number + kGateway + 1);
  return ::inet_ntop(AF_INET, &address, text.data(), text.size());
}

Status BareSandboxes::make(unsigned number) {
  Status done;
  std::thread([&] { done = makeInThread(number); }).join();
  return done;
}

Status BareSandboxes::makeInThread(unsigned number) {
  if (::unshare(CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWUTS) < 0) return sysError("unshare net, ipc and uts");
  USERPOD_CHECK(makeDirectories(fmt::format("{}/{}", directory_, number), 0700));
  for (const char* name : kNamespaces) {
    USERPOD_CHECK(writeFile(pin(number, name), ""));
    USERPOD_CHECK(bindMount(std::string("/proc/thread-self/ns/") + name, pin(number, name), false));
  }
  USERPOD_TRY(own, openFile("/proc/thread-self/ns/net", O_RDONLY));
  USERPOD_TRY(pod, Netlink::open());
  NetlinkBatch node;
  addVeth(node, fmt::format("{}{}", kBridge, number), bridge_, own.get());
  {
    std::lock_guard lock(mutex_);
    USERPOD_CHECK(node_.run(node));
  }
  USERPOD_TRY(index, pod.linkIndex("eth0"));
  NetlinkBatch inside;
  setUp(inside, kLoopbackIndex, "lo", false);
  setUp(inside, index, "eth0", ipv6_);
  addAddress(inside, index, AF_INET, 16, address4(number + kGateway + 1));
  addRoute(inside, index, AF_INET, address4(kGateway));
  if (ipv6_) {
    addAddress(inside, index, AF_INET6, 64, address6(number + kGateway + 1));
    addRoute(inside, index, AF_INET6, address6(kGateway));
  }
  return pod.run(inside);
}

Status BareSandboxes::drop(unsigned number) const {
  for (const char* name : kNamespaces) {
    USERPOD_CHECK(unmountDetached(pin(number, name)));
    if (::unlink(pin(number, name).c_str()) < 0) return sysError("remove " + pin(number, name));
  }
  return {};
}

Status removeBareBridge(const NodeInside& node) {
  USERPOD_TRY(socket, openInNode(node));
  auto index = socket.linkIndex(kBridge);
  if (!index) return index.error().sysErrno() == ENODEV ? Status() : Status(std::move(index).error());
  NetlinkBatch batch;
  batch.begin<ifinfomsg>(RTM_DELLINK, 0, std::string("delete bridge ") + kBridge).ifi_index = static_cast<int>(*index);
  return socket.run(batch);
}

}  // namespace userpod::bench

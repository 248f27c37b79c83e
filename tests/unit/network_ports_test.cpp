// Host ports inside of the node, IPv6, and what pods may not do, on the real kernel: see network_bed.hpp.
#include <linux/if_packet.h>
#include <netinet/icmp6.h>

#include "tests/unit/network_bed.hpp"

namespace userpod::network {
namespace {

// Either family; with its port.
struct Name {
  sockaddr_storage storage{};
  socklen_t size = 0;
  const sockaddr* get() const { return reinterpret_cast<const sockaddr*>(&storage); }
};

Name nameOf(const std::string& address, int port) {
  Name name;
  if (address.find(':') == std::string::npos) {
    auto v4 = at(address, port);
    std::memcpy(&name.storage, &v4, sizeof v4);
    name.size = sizeof v4;
    return name;
  }
  sockaddr_in6 v6{};
  v6.sin6_family = AF_INET6;
  v6.sin6_port = htons(static_cast<std::uint16_t>(port));
  ::inet_pton(AF_INET6, address.c_str(), &v6.sin6_addr);
  std::memcpy(&name.storage, &v6, sizeof v6);
  name.size = sizeof v6;
  return name;
}

std::string textOf(const sockaddr_storage& storage) {
  std::array<char, INET6_ADDRSTRLEN> text{};
  if (storage.ss_family == AF_INET6)
    ::inet_ntop(AF_INET6, &reinterpret_cast<const sockaddr_in6*>(&storage)->sin6_addr, text.data(), text.size());
  else
    ::inet_ntop(AF_INET, &reinterpret_cast<const sockaddr_in*>(&storage)->sin_addr, text.data(), text.size());
  return text.data();
}

UniqueFd serve(const std::string& network, const std::string& address, int type, int port) {
  UniqueFd fd;
  auto name = nameOf(address, port);
  inNamespace(network, CLONE_NEWNET, [&] { fd.reset(::socket(name.storage.ss_family, type | SOCK_NONBLOCK, 0)); });
  int on = 1;
  if (name.storage.ss_family == AF_INET6) ::setsockopt(fd.get(), IPPROTO_IPV6, IPV6_V6ONLY, &on, sizeof on);
  EXPECT_EQ(::bind(fd.get(), name.get(), name.size), 0) << address << " " << errno;
  if (type == SOCK_STREAM) {
    EXPECT_EQ(::listen(fd.get(), 10), 0);
  }
  return fd;
}

// Who the server saw when a client of that network connected there; empty: it got through to nobody.
std::string seenBy(const UniqueFd& server, const std::string& network, const std::string& address, int port,
                   std::chrono::milliseconds time = 2s) {
  auto name = nameOf(address, port);
  UniqueFd client;
  inNamespace(network, CLONE_NEWNET,
              [&] { client.reset(::socket(name.storage.ss_family, SOCK_STREAM | SOCK_NONBLOCK, 0)); });
  (void)::connect(client.get(), name.get(), name.size);
  pollfd wait{server.get(), POLLIN, 0};
  if (::poll(&wait, 1, static_cast<int>(time.count())) != 1) return "";
  sockaddr_storage peer{};
  socklen_t size = sizeof peer;
  UniqueFd accepted(::accept(server.get(), reinterpret_cast<sockaddr*>(&peer), &size));
  pollfd done{client.get(), POLLOUT, 0};
  return accepted && ::poll(&done, 1, 1000) == 1 && (done.revents & POLLERR) == 0 ? textOf(peer) : "";
}

// The same by UDP; the answer has to come back from the address that was asked.
std::string answeredBy(const UniqueFd& server, const UniqueFd& client, std::chrono::milliseconds time = 1s) {
  // The first may tell of an earlier packet that was refused.
  if (::send(client.get(), "?", 1, 0) != 1 && ::send(client.get(), "?", 1, 0) != 1) return "";
  pollfd wait{server.get(), POLLIN, 0};
  if (::poll(&wait, 1, static_cast<int>(time.count())) != 1) return "";
  sockaddr_storage peer{};
  socklen_t size = sizeof peer;
  char byte = 0;
  if (::recvfrom(server.get(), &byte, 1, 0, reinterpret_cast<sockaddr*>(&peer), &size) != 1) return "";
  (void)::sendto(server.get(), "!", 1, 0, reinterpret_cast<sockaddr*>(&peer), size);
  pollfd back{client.get(), POLLIN, 0};
  return ::poll(&back, 1, 1000) == 1 && ::recv(client.get(), &byte, 1, 0) == 1 ? textOf(peer) : "";
}

UniqueFd udpClient(const std::string& network, const std::string& address, int port) {
  auto name = nameOf(address, port);
  UniqueFd client;
  inNamespace(network, CLONE_NEWNET,
              [&] { client.reset(::socket(name.storage.ss_family, SOCK_DGRAM | SOCK_NONBLOCK, 0)); });
  EXPECT_EQ(::connect(client.get(), name.get(), name.size), 0);
  return client;
}

PodConfig withPorts(std::vector<PortMapping> ports) {
  PodConfig config;
  config.ports = std::move(ports);
  return config;
}

class HostPortsInNode : public InNode {
 protected:
  bool usable() {
    if (network_->note().empty()) return true;
    [this] { GTEST_SKIP() << network_->note(); }();
    return false;
  }
};

TEST_F(HostPortsInNode, PodsReachEachOtherByIpv6) {
  if (!inside()) return runInside();
  auto a = setUp("a");
  auto b = setUp("b");
  auto server = serve(a.namespaces.network, "::", SOCK_STREAM, 8080);
  EXPECT_EQ(seenBy(server, b.namespaces.network, a.addresses.at(1), 8080), b.addresses.at(1));
  EXPECT_EQ(seenBy(server, kNode, a.addresses.at(1), 8080), "fd75:7064:88::1");
}

TEST_F(HostPortsInNode, TcpIsReachedAtEachOfTheNodesAddressesAndByThePodItself) {
  if (!inside()) return runInside();
  if (!usable()) return;
  auto pod = setUp("a", withPorts({{0, 80, 8080, ""}}));
  auto other = setUp("b");
  auto v4 = serve(pod.namespaces.network, "0.0.0.0", SOCK_STREAM, 80);
  EXPECT_EQ(seenBy(v4, kNode, "127.0.0.1", 8080), "10.88.0.1");
  EXPECT_EQ(seenBy(v4, kNode, "10.88.0.1", 8080), "10.88.0.1");
  EXPECT_EQ(seenBy(v4, other.namespaces.network, "10.88.0.1", 8080), "10.88.0.1");
  EXPECT_EQ(seenBy(v4, pod.namespaces.network, "10.88.0.1", 8080), "10.88.0.1") << "hairpin";
  v4.reset();
  auto v6 = serve(pod.namespaces.network, "::", SOCK_STREAM, 80);
  EXPECT_EQ(seenBy(v6, kNode, "::1", 8080), "fd75:7064:88::1") << "by userpod-ports";
  EXPECT_EQ(seenBy(v6, kNode, "fd75:7064:88::1", 8080), "fd75:7064:88::1");
  EXPECT_EQ(seenBy(v6, other.namespaces.network, "fd75:7064:88::1", 8080), "fd75:7064:88::1");
  EXPECT_EQ(seenBy(v6, pod.namespaces.network, "fd75:7064:88::1", 8080), "fd75:7064:88::1") << "hairpin";
}

TEST_F(HostPortsInNode, APortOfOneAddressIsNotReachedAtAnother) {
  if (!inside()) return runInside();
  if (!usable()) return;
  auto pod = setUp("a", withPorts({{0, 80, 8080, "10.88.0.1"}, {0, 80, 8081, "127.0.0.1"}}));
  auto server = serve(pod.namespaces.network, "0.0.0.0", SOCK_STREAM, 80);
  EXPECT_EQ(seenBy(server, kNode, "10.88.0.1", 8080), "10.88.0.1");
  EXPECT_EQ(seenBy(server, kNode, "127.0.0.1", 8080, 200ms), "");
  EXPECT_EQ(seenBy(server, kNode, "127.0.0.1", 8081), "10.88.0.1");
  EXPECT_EQ(seenBy(server, kNode, "10.88.0.1", 8081, 200ms), "");
}

TEST_F(HostPortsInNode, UdpFollowsThePodThatHasThePort) {
  if (!inside()) return runInside();
  if (!usable()) return;
  auto early = udpClient(kNode, "127.0.0.1", 5353);
  // Before there is a pod: the kernel remembers the flow.
  (void)::send(early.get(), "?", 1, 0);
  auto client = udpClient(kNode, "127.0.0.1", 5353);
  for (const char* name : {"a", "b"}) {
    auto pod = setUp(name, withPorts({{1, 53, 5353, ""}}));
    auto server = serve(pod.namespaces.network, "0.0.0.0", SOCK_DGRAM, 53);
    EXPECT_EQ(answeredBy(server, early), "10.88.0.1") << name;
    // That one was led to a: it must not go on to where a was.
    EXPECT_EQ(answeredBy(server, client), "10.88.0.1") << name;
    tearDown(name);
  }
}

TEST_F(HostPortsInNode, PortsGoWithThePodAndComeBackWithADaemon) {
  if (!inside()) return runInside();
  if (!usable()) return;
  auto pod = setUp("a", withPorts({{0, 80, 8080, ""}}));
  auto server = serve(pod.namespaces.network, "0.0.0.0", SOCK_STREAM, 80);
  restart();
  EXPECT_EQ(seenBy(server, kNode, "127.0.0.1", 8080), "10.88.0.1");
  tearDown("a");
  EXPECT_EQ(seenBy(server, kNode, "127.0.0.1", 8080, 200ms), "");
  // Another pod has it by now: a late repetition takes nothing from it.
  auto next = setUp("b", withPorts({{0, 80, 8080, ""}}));
  tearDown("a");
  auto second = serve(next.namespaces.network, "0.0.0.0", SOCK_STREAM, 80);
  EXPECT_EQ(seenBy(second, kNode, "127.0.0.1", 8080), "10.88.0.1");
  // Of a pod whose record is lost, nothing is left at the next start.
  pods_.erase("b");
  restart();
  EXPECT_EQ(seenBy(second, kNode, "127.0.0.1", 8080, 200ms), "");
}

TEST_F(HostPortsInNode, SctpIsRefusedByName) {
  if (!inside()) return runInside();
  auto made = trySetUp("a", withPorts({{2, 80, 8080, ""}}));
  ASSERT_FALSE(made);
  EXPECT_EQ(made.error().code(), Code::InvalidArgument);
  EXPECT_NE(made.error().text().find("SCTP"), std::string::npos);
  EXPECT_TRUE(trySetUp("b", withPorts({{2, 80, 0, ""}})));
}

// route_localnet, which host ports need, would let a pod route to 127.0.0.1 of the node.
TEST_F(HostPortsInNode, APodDoesNotReachTheNodesLoopback) {
  if (!inside()) return runInside();
  if (!usable()) return;
  auto pod = setUp("a");
  auto server = serve(kNode, "127.0.0.1", SOCK_STREAM, 9090);
  inNamespace(pod.namespaces.network, CLONE_NEWNET, [] {
    ASSERT_TRUE(writeFile("/proc/sys/net/ipv4/conf/eth0/route_localnet", "1"));
    auto socket = Netlink::open();
    auto index = socket->linkIndex("lo");
    NetlinkBatch batch;
    auto& down = batch.begin<ifinfomsg>(RTM_NEWLINK, 0, "lo down");
    down.ifi_index = static_cast<int>(*index);
    down.ifi_change = IFF_UP;
    auto& route = batch.begin<rtmsg>(RTM_NEWROUTE, NLM_F_CREATE, "route 127.0.0.0/8");
    route.rtm_family = AF_INET;
    route.rtm_dst_len = 8;
    route.rtm_table = RT_TABLE_MAIN;
    route.rtm_protocol = RTPROT_STATIC;
    route.rtm_type = RTN_UNICAST;
    auto loopback = at("127.0.0.0", 0);
    auto gateway = at("10.88.0.1", 0);
    batch.put(RTA_DST, &loopback.sin_addr, 4);
    batch.put(RTA_GATEWAY, &gateway.sin_addr, 4);
    batch.putU32(RTA_OIF, *socket->linkIndex("eth0"));
    auto done = socket->run(batch);
    ASSERT_TRUE(done) << done.error().text();
  });
  EXPECT_EQ(seenBy(server, pod.namespaces.network, "127.0.0.1", 9090, 300ms), "");
  EXPECT_EQ(seenBy(server, kNode, "127.0.0.1", 9090), "127.0.0.1");
}

TEST_F(HostPortsInNode, APodCannotTakeAnothersIpv6Address) {
  if (!inside()) return runInside();
  if (!usable()) return;
  auto a = setUp("a");
  auto b = setUp("b");
  auto server = serve(a.namespaces.network, "::", SOCK_STREAM, 8080);
  auto thief = [&](const std::string& address) {
    inNamespace(b.namespaces.network, CLONE_NEWNET, [&] {
      auto socket = Netlink::open();
      NetlinkBatch batch;
      auto& body = batch.begin<ifaddrmsg>(RTM_NEWADDR, NLM_F_CREATE, "address");
      body.ifa_family = AF_INET6;
      body.ifa_prefixlen = 128;
      body.ifa_flags = IFA_F_NODAD;
      body.ifa_index = *socket->linkIndex("eth0");
      in6_addr bytes{};
      ::inet_pton(AF_INET6, address.c_str(), &bytes);
      batch.put(IFA_LOCAL, &bytes, 16);
      auto done = socket->run(batch);
      ASSERT_TRUE(done) << done.error().text();
    });
  };
  EXPECT_EQ(seenBy(server, b.namespaces.network, a.addresses.at(1), 8080), b.addresses.at(1));
  auto client = udpClient(b.namespaces.network, a.addresses.at(1), 53);
  thief("fd75:7064:88::77");
  auto udp = serve(a.namespaces.network, "::", SOCK_DGRAM, 53);
  UniqueFd spoofed;
  auto source = nameOf("fd75:7064:88::77", 0);
  auto target = nameOf(a.addresses.at(1), 53);
  inNamespace(b.namespaces.network, CLONE_NEWNET,
              [&] { spoofed.reset(::socket(AF_INET6, SOCK_DGRAM | SOCK_NONBLOCK, 0)); });
  ASSERT_EQ(::bind(spoofed.get(), source.get(), source.size), 0) << errno;
  ASSERT_EQ(::connect(spoofed.get(), target.get(), target.size), 0);
  EXPECT_EQ(answeredBy(udp, spoofed, 300ms), "");
  EXPECT_EQ(answeredBy(udp, client), b.addresses.at(1));
}

// An Ethernet frame with a UDP datagram from `source`, which need not be the pod's, behind `tags`.
std::string frame(const std::string& tags, const std::string& source, const std::string& to, std::uint8_t toMac) {
  std::string text("\x0a\x58\x0a\x58\x00", 5);
  text += static_cast<char>(toMac);
  text += std::string("\x0a\x58\x0a\x58\x00\x03", 6) + tags + std::string("\x08\x00", 2);
  std::string ip("\x45\0\0\x1d\0\0\0\0\x40\x11\0\0", 12);
  for (const auto& address : {source, to}) {
    auto name = at(address, 0);
    ip.append(reinterpret_cast<const char*>(&name.sin_addr), 4);
  }
  std::uint32_t sum = 0;
  for (std::size_t i = 0; i < ip.size(); i += 2)
    sum += static_cast<std::uint8_t>(ip[i]) << 8 | static_cast<std::uint8_t>(ip[i + 1]);
  sum = ~((sum & 0xffff) + (sum >> 16));
  ip[10] = static_cast<char>(sum >> 8);
  ip[11] = static_cast<char>(sum);
  return text + ip + std::string("\x12\x34\0\x35\0\x09\0\0!", 9);
}

TEST_F(HostPortsInNode, ATagOfVlan0DoesNotHideAForeignAddress) {
  if (!inside()) return runInside();
  if (!usable()) return;
  auto a = setUp("a");
  auto b = setUp("b");
  auto server = serve(a.namespaces.network, "0.0.0.0", SOCK_DGRAM, 53);
  UniqueFd raw;
  unsigned index = 0;
  inNamespace(b.namespaces.network, CLONE_NEWNET, [&] {
    raw.reset(::socket(AF_PACKET, SOCK_RAW, 0));
    index = ::if_nametoindex("eth0");
  });
  ASSERT_TRUE(raw) << errno;
  auto arrives = [&](const std::string& tags, const std::string& source) {
    sockaddr_ll to{};
    to.sll_family = AF_PACKET;
    to.sll_ifindex = static_cast<int>(index);
    auto bytes = frame(tags, source, a.addresses.at(0), 2);
    EXPECT_EQ(::sendto(raw.get(), bytes.data(), bytes.size(), 0, reinterpret_cast<sockaddr*>(&to), sizeof to),
              static_cast<ssize_t>(bytes.size()));
    pollfd wait{server.get(), POLLIN, 0};
    char byte = 0;
    return ::poll(&wait, 1, 200) == 1 && ::recv(server.get(), &byte, 1, 0) == 1;
  };
  EXPECT_TRUE(arrives("", b.addresses.at(0)));
  EXPECT_FALSE(arrives("", "10.88.0.77"));
  for (std::string tag : {std::string("\x81\0\0\0", 4), std::string("\x88\xa8\0\0", 4)})
    EXPECT_FALSE(arrives(tag, "10.88.0.77"));
}

TEST_F(HostPortsInNode, APodCannotSayThatItIsAnotherToItsNeighbours) {
  if (!inside()) return runInside();
  if (!usable()) return;
  auto a = setUp("a");
  auto b = setUp("b");
  auto c = setUp("c");
  auto server = serve(a.namespaces.network, "::", SOCK_STREAM, 8080);
  ASSERT_EQ(seenBy(server, c.namespaces.network, a.addresses.at(1), 8080), c.addresses.at(1));
  // An unsolicited advertisement of a's address, from b to c, that would override what c knows.
  inNamespace(b.namespaces.network, CLONE_NEWNET, [&] {
    UniqueFd raw(::socket(AF_INET6, SOCK_RAW, IPPROTO_ICMPV6));
    ASSERT_TRUE(raw) << errno;
    int hops = 255;
    ::setsockopt(raw.get(), IPPROTO_IPV6, IPV6_UNICAST_HOPS, &hops, sizeof hops);
    struct {
      nd_neighbor_advert advert{};
      nd_opt_hdr option{ND_OPT_TARGET_LINKADDR, 1};
      std::array<std::uint8_t, 6> mac{0x0a, 0x58, 0x0a, 0x58, 0, 3};
    } message;
    message.advert.nd_na_type = ND_NEIGHBOR_ADVERT;
    message.advert.nd_na_flags_reserved = ND_NA_FLAG_OVERRIDE;
    ::inet_pton(AF_INET6, a.addresses.at(1).c_str(), &message.advert.nd_na_target);
    auto to = nameOf(c.addresses.at(1), 0);
    ASSERT_EQ(::sendto(raw.get(), &message, sizeof message, 0, to.get(), to.size), ssize_t{sizeof message}) << errno;
  });
  std::this_thread::sleep_for(50ms);
  EXPECT_EQ(seenBy(server, c.namespaces.network, a.addresses.at(1), 8080, 500ms), c.addresses.at(1));
}

}  // namespace
}  // namespace userpod::network

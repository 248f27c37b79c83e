// Host ports: the daemon's client with a real userpod-ports, on the real kernel, as an ordinary user.
#include <signal.h>
#include <sys/stat.h>

#include <array>
#include <map>
#include <vector>

#include "daemon/network/ports/messages.hpp"
#include "daemon/network/ports/sources.hpp"
#include "tests/unit/ports_bed.hpp"

namespace userpod::testing {
namespace {

constexpr int kTcp = 0, kUdp = 1, kSctp = 2;

std::string readSome(int fd) {
  std::array<char, 4096> buffer{};
  ssize_t count = ::recv(fd, buffer.data(), buffer.size(), 0);
  return count < 0 ? "errno " + std::to_string(errno) : std::string(buffer.data(), static_cast<std::size_t>(count));
}

// One connection through a port, and who the pod sees.
std::string seenThrough(int listener, const std::string& network, const Endpoint& to, const std::string& source = "",
                        std::uint16_t sourcePort = 0) {
  auto client = connectedIn(network, to, SOCK_STREAM, source, sourcePort);
  if (!client) return std::string("no connection: ") + std::strerror(errno);
  Endpoint peer;
  auto pod = acceptedFrom(listener, peer);
  if (!pod) return std::string("none came: ") + std::strerror(errno);
  EXPECT_EQ(::send(client.get(), "ping", 4, 0), 4);
  EXPECT_EQ(readSome(pod.get()), "ping");
  EXPECT_EQ(::send(pod.get(), "pong", 4, 0), 4);
  EXPECT_EQ(readSome(client.get()), "pong");
  pod.reset();
  EXPECT_EQ(readSome(client.get()), "");
  return peer.text();
}

TEST_F(PortsBed, ThePodSeesItsClients) {
  if (!inside()) return runInside();
  auto v4 = boundIn(kPod, Endpoint::any(AF_INET, 80), SOCK_STREAM);
  auto v6 = boundIn(kPod, Endpoint::any(AF_INET6, 80), SOCK_STREAM);
  publish(pod("a", {{kTcp, 80, 8080, ""}}));
  EXPECT_EQ(seenThrough(v4.get(), "", at("192.0.2.1", 8080), "192.0.2.50", 5555), "192.0.2.50:5555");
  EXPECT_EQ(seenThrough(v6.get(), "", at("2001:db8::1", 8080), "2001:db8::50", 5555), "[2001:db8::50]:5555");
  // Those of the loopback come from the node: the pod must not take them for itself.
  EXPECT_EQ(seenThrough(v4.get(), "", at("127.0.0.1", 8080)).substr(0, 10), "10.88.0.1:");
  EXPECT_EQ(seenThrough(v6.get(), "", at("::1", 8080)).substr(0, 18), "[fd75:7064:88::1]:");
  // In the node there is no translation here, so that the process serves all of it.
  EXPECT_EQ(seenThrough(v4.get(), kNode, at("127.0.0.1", 8080)).substr(0, 10), "10.88.0.1:");
  EXPECT_EQ(seenThrough(v6.get(), kNode, at("::1", 8080)).substr(0, 18), "[fd75:7064:88::1]:");
  EXPECT_EQ(seenThrough(v4.get(), kNode, at("10.0.2.100", 8080)).substr(0, 10), "10.88.0.1:");
  EXPECT_EQ(seenThrough(v4.get(), kPod, at("10.88.0.1", 8080)).substr(0, 10), "10.88.0.1:");
}

// A datagram through a port and an answer; who the pod sees.
std::string datagramThrough(int pod, int client, const Endpoint& to) {
  EXPECT_EQ(::sendto(client, "ping", 4, 0, to.raw(), to.size()), 4) << to.text();
  std::array<char, 64> buffer{};
  Endpoint peer, from;
  socklen_t size = Endpoint::capacity();
  ssize_t count = ::recvfrom(pod, buffer.data(), buffer.size(), 0, peer.raw(), &size);
  if (count != 4) return std::string("none came: ") + std::strerror(errno);
  EXPECT_EQ(::sendto(pod, "pong!", 5, 0, peer.raw(), peer.size()), 5);
  size = Endpoint::capacity();
  EXPECT_EQ(::recvfrom(client, buffer.data(), buffer.size(), 0, from.raw(), &size), 5) << to.text();
  // From the address that was written to.
  EXPECT_EQ(from.text(), to.text());
  return peer.text();
}

TEST_F(PortsBed, ThePodSeesWhoSendsDatagrams) {
  if (!inside()) return runInside();
  auto v4 = boundIn(kPod, Endpoint::any(AF_INET, 53), SOCK_DGRAM);
  auto v6 = boundIn(kPod, Endpoint::any(AF_INET6, 53), SOCK_DGRAM);
  publish(pod("a", {{kUdp, 53, 5353, ""}}));
  auto client4 = boundIn("", at("192.0.2.50", 5555), SOCK_DGRAM);
  auto client6 = boundIn("", at("2001:db8::50", 5555), SOCK_DGRAM);
  EXPECT_EQ(datagramThrough(v4.get(), client4.get(), at("192.0.2.1", 5353)), "192.0.2.50:5555");
  EXPECT_EQ(datagramThrough(v4.get(), client4.get(), at("192.0.2.1", 5353)), "192.0.2.50:5555");
  EXPECT_EQ(datagramThrough(v6.get(), client6.get(), at("2001:db8::1", 5353)), "[2001:db8::50]:5555");
  // To another address, the same client's port cannot be kept a second time.
  EXPECT_EQ(datagramThrough(v4.get(), client4.get(), at("192.0.2.50", 5353)).substr(0, 11), "192.0.2.50:");
  auto local4 = boundIn("", Endpoint::any(AF_INET, 0), SOCK_DGRAM);
  auto local6 = boundIn("", Endpoint::any(AF_INET6, 0), SOCK_DGRAM);
  EXPECT_EQ(datagramThrough(v4.get(), local4.get(), at("127.0.0.1", 5353)).substr(0, 10), "10.88.0.1:");
  EXPECT_EQ(datagramThrough(v6.get(), local6.get(), at("::1", 5353)).substr(0, 18), "[fd75:7064:88::1]:");
  auto node6 = boundIn(kNode, Endpoint::any(AF_INET6, 0), SOCK_DGRAM);
  EXPECT_EQ(datagramThrough(v6.get(), node6.get(), at("::1", 5353)).substr(0, 18), "[fd75:7064:88::1]:");
  ASSERT_EQ(listed().size(), 1U);
  EXPECT_EQ(listed().front().connections, 6U);
  ASSERT_TRUE(client_->withdraw("a"));
  EXPECT_TRUE(listed().empty());
}

TEST_F(PortsBed, ManyDatagramsOfManyClients) {
  if (!inside()) return runInside();
  auto server = boundIn(kPod, Endpoint::any(AF_INET, 53), SOCK_DGRAM);
  publish(pod("a", {{kUdp, 53, 5353, "192.0.2.1"}}));
  std::vector<UniqueFd> clients;
  for (int index = 0; index < 200; ++index)
    clients.push_back(connectedIn("", at("192.0.2.1", 5353), SOCK_DGRAM, "192.0.2.50"));
  std::thread echo([&] {
    std::vector<char> buffer(64 << 10);
    for (int left = 200 * 20; left > 0; --left) {
      Endpoint peer;
      socklen_t size = Endpoint::capacity();
      ssize_t count = ::recvfrom(server.get(), buffer.data(), buffer.size(), 0, peer.raw(), &size);
      if (count < 0 || ::sendto(server.get(), buffer.data(), static_cast<std::size_t>(count), 0, peer.raw(), size) < 0)
        return;
    }
  });
  std::string largest(60000, 'x');
  for (int round = 0; round < 20; ++round)
    for (std::size_t index = 0; index < clients.size(); ++index) {
      std::string text = std::to_string(index) + largest.substr(0, round == 0 ? 60000 : round * 50);
      ASSERT_EQ(::send(clients[index].get(), text.data(), text.size(), 0), static_cast<ssize_t>(text.size()));
      std::string answer(64 << 10, '\0');
      ssize_t count = ::recv(clients[index].get(), answer.data(), answer.size(), 0);
      ASSERT_GT(count, 0) << std::strerror(errno) << " " << round << " " << index;
      answer.resize(static_cast<std::size_t>(count));
      ASSERT_EQ(answer, text);
    }
  echo.join();
  EXPECT_EQ(listed().front().connections, 200U);
}

TEST_F(PortsBed, RefusalsSayWhatToDo) {
  if (!inside()) return runInside();
  publish(pod("a", {{kTcp, 80, 8080, ""}}));
  auto text = refused(pod("b", {{kUdp, 80, 8080, ""}, {kTcp, 80, 8080, "127.0.0.1"}}), Code::NetworkSetupFailed);
  EXPECT_NE(text.find("TCP port 8080 of 127.0.0.1 is taken by pod a"), std::string::npos) << text;
  // All or nothing: the UDP port is free again.
  publish(pod("c", {{kUdp, 80, 8080, ""}}));
  auto own = boundIn("", at("127.0.0.1", 9000), SOCK_STREAM);
  text = refused(pod("b", {{kTcp, 80, 9000, ""}}), Code::NetworkSetupFailed);
  EXPECT_NE(text.find("TCP port 9000 of 0.0.0.0 is taken by process"), std::string::npos) << text;
  auto inNode = boundIn(kNode, at("10.0.2.100", 9001), SOCK_STREAM);
  text = refused(pod("b", {{kTcp, 80, 9001, ""}}), Code::NetworkSetupFailed);
  EXPECT_NE(text.find("TCP port 9001 of 0.0.0.0 in the node is taken by process"), std::string::npos) << text;
  auto other = boundIn("", at("127.0.0.1", 9002), SOCK_DGRAM);
  text = refused(pod("b", {{kUdp, 80, 9002, ""}}), Code::NetworkSetupFailed);
  EXPECT_NE(text.find("UDP port 9002 of 0.0.0.0 is taken by process"), std::string::npos) << text;
  text = refused(pod("b", {{kSctp, 80, 8081, ""}}), Code::NotSupported);
  EXPECT_NE(text.find("SCTP"), std::string::npos) << text;
  text = refused(pod("b", {{kTcp, 80, 8081, "203.0.113.9"}}), Code::InvalidArgument);
  EXPECT_NE(text.find("203.0.113.9"), std::string::npos) << text;
  refused(pod("b", {{kTcp, 80, 8081, "localhost"}}), Code::InvalidArgument);
  refused(pod("b", {{kTcp, 80, 8081, "fe80::1%eth0"}}), Code::InvalidArgument);
  refused(pod("b", {{kTcp, 80, 70000, ""}}), Code::InvalidArgument);
  refused(pod("b", {{kTcp, -1, 8081, ""}}), Code::InvalidArgument);
  refused(pod("b", {{7, 80, 8081, ""}}), Code::InvalidArgument);
  refused({.podId = "b", .addresses = {}, .ports = {{kTcp, 80, 8081, ""}}}, Code::InvalidArgument);
  refused({.podId = "b", .addresses = {"127.0.0.1"}, .ports = {{kTcp, 80, 8081, ""}}}, Code::InvalidArgument);
  refused(pod("b", {{kTcp, 80, 8081, ""}, {kTcp, 81, 8081, ""}}), Code::NetworkSetupFailed);
  refused(pod("b", std::vector<PortMapping>(1001, {kTcp, 80, 8081, ""})), Code::InvalidArgument);
  publish(pod("b", {{kTcp, 80, 8081, ""}, {kTcp, 80, 0, ""}}));
  EXPECT_EQ(listed().size(), 3U);
}

TEST_F(PortsBed, PrivilegedPortsAreRefusedOrMoved) {
  if (!inside()) return runInside();
  // As on a host, where the user has no power.
  ASSERT_TRUE(shell("sysctl -qw net.ipv4.ip_unprivileged_port_start=1024"));
  auto server = boundIn(kPod, Endpoint::any(AF_INET, 80), SOCK_STREAM);
  auto text = refused(pod("a", {{kTcp, 80, 443, ""}}), Code::AccessDenied);
  EXPECT_NE(text.find("net.ipv4.ip_unprivileged_port_start=443"), std::string::npos) << text;
  EXPECT_NE(text.find("privileged-port-offset"), std::string::npos) << text;
  settings_.privilegedPortOffset = 8000;
  reopen();
  publish(pod("a", {{kTcp, 80, 443, ""}}));
  EXPECT_EQ(listed().front().listenPort, 8443);
  EXPECT_EQ(seenThrough(server.get(), "", at("192.0.2.1", 8443), "192.0.2.50", 5555), "192.0.2.50:5555");
  EXPECT_EQ(seenThrough(server.get(), kNode, at("127.0.0.1", 443)).substr(0, 10), "10.88.0.1:");
}

TEST_F(PortsBed, OneAddressOfTheHostOrTheNode) {
  if (!inside()) return runInside();
  auto server = boundIn(kPod, Endpoint::any(AF_INET, 80), SOCK_STREAM);
  publish(pod("a", {{kTcp, 80, 8080, "192.0.2.1"}}));
  publish(pod("b", {{kTcp, 80, 8080, "127.0.0.1"}}));
  publish(pod("c", {{kTcp, 80, 8080, "10.0.2.100"}}));
  publish(pod("d", {{kTcp, 80, 8080, "::1"}}));
  std::map<std::string, std::pair<std::size_t, std::size_t>> counts;
  for (const auto& port : listed()) counts[port.podId] = {port.host.size(), port.node.size()};
  std::map<std::string, std::pair<std::size_t, std::size_t>> expected = {
      {"a", {1, 0}}, {"b", {1, 1}}, {"c", {0, 1}}, {"d", {1, 1}}};
  EXPECT_EQ(counts, expected);
  EXPECT_EQ(seenThrough(server.get(), "", at("192.0.2.1", 8080), "192.0.2.50", 5555), "192.0.2.50:5555");
  EXPECT_FALSE(connectedIn("", at("192.0.2.50", 8080), SOCK_STREAM));
}

TEST_F(PortsBed, PodsOfOneFamilyAndOfTheNodesNetwork) {
  if (!inside()) return runInside();
  auto v4 = boundIn(kPod, Endpoint::any(AF_INET, 80), SOCK_STREAM);
  auto v6 = boundIn(kPod, Endpoint::any(AF_INET6, 81), SOCK_STREAM);
  auto inNode = boundIn(kNode, Endpoint::any(AF_INET, 9090), SOCK_STREAM);
  publish({.podId = "four", .addresses = {kPodV4}, .ports = {{kTcp, 80, 8080, ""}}});
  publish({.podId = "six", .addresses = {kPodV6}, .ports = {{kTcp, 81, 8081, ""}}});
  publish({.podId = "node", .addresses = {"10.0.2.100"}, .ports = {{kTcp, 9090, 9090, ""}}, .nodeNetwork = true});
  EXPECT_EQ(seenThrough(v4.get(), "", at("2001:db8::1", 8080), "2001:db8::50").substr(0, 10), "10.88.0.1:");
  EXPECT_EQ(seenThrough(v6.get(), "", at("192.0.2.1", 8081), "192.0.2.50").substr(0, 18), "[fd75:7064:88::1]:");
  EXPECT_EQ(seenThrough(inNode.get(), "", at("192.0.2.1", 9090), "192.0.2.50", 5555), "192.0.2.50:5555");
  EXPECT_EQ(seenThrough(inNode.get(), "", at("127.0.0.1", 9090)).substr(0, 11), "10.0.2.100:");
  std::map<std::string, std::string> notes;
  for (const auto& port : listed()) notes[port.podId] = port.sourceNote;
  EXPECT_EQ(notes["four"], "clients of IPv6: the pod has no such address");
  EXPECT_EQ(notes["six"], "clients of IPv4: the pod has no such address");
}

class PortsWithoutRules : public PortsBed {
  bool rules() const override { return false; }
};

TEST_F(PortsWithoutRules, ThePodSeesTheNode) {
  if (!inside()) return runInside();
  auto server = boundIn(kPod, Endpoint::any(AF_INET, 80), SOCK_STREAM);
  auto datagrams = boundIn(kPod, Endpoint::any(AF_INET, 53), SOCK_DGRAM);
  publish(pod("a", {{kTcp, 80, 8080, ""}, {kUdp, 53, 5353, ""}}));
  EXPECT_EQ(seenThrough(server.get(), "", at("192.0.2.1", 8080), "192.0.2.50").substr(0, 10), "10.88.0.1:");
  auto client = boundIn("", at("192.0.2.50", 0), SOCK_DGRAM);
  EXPECT_EQ(datagramThrough(datagrams.get(), client.get(), at("192.0.2.1", 5353)).substr(0, 10), "10.88.0.1:");
  for (const auto& port : listed())
    EXPECT_NE(port.sourceNote.find("clients of IPv4: the node's rules"), std::string::npos) << port.sourceNote;
}

// Pairs of connected sockets, client and pod.
struct Link {
  UniqueFd client;
  UniqueFd pod;
};
Link linkThrough(int listener, const Endpoint& to) {
  Link link{.client = connectedIn("", to, SOCK_STREAM, "192.0.2.50"), .pod = {}};
  Endpoint peer;
  link.pod = acceptedFrom(listener, peer);
  EXPECT_TRUE(link.client && link.pod) << std::strerror(errno);
  const timeval time{5, 0};
  ::setsockopt(link.pod.get(), SOL_SOCKET, SO_RCVTIMEO, &time, sizeof time);
  return link;
}

bool sendAll(int fd, std::string_view bytes) {
  while (!bytes.empty()) {
    ssize_t count = ::send(fd, bytes.data(), bytes.size(), MSG_NOSIGNAL);
    if (count <= 0) return false;
    bytes.remove_prefix(static_cast<std::size_t>(count));
  }
  return true;
}

std::string receiveAll(int fd, std::chrono::microseconds pause = 0us) {
  std::string all;
  std::vector<char> buffer(100000);
  for (;;) {
    ssize_t count = ::recv(fd, buffer.data(), buffer.size(), 0);
    if (count < 0) return "errno " + std::to_string(errno);
    if (count == 0) return all;
    all.append(buffer.data(), static_cast<std::size_t>(count));
    if (pause > 0us) std::this_thread::sleep_for(pause);
  }
}

std::string pattern(std::size_t size) {
  std::string bytes(size, '\0');
  std::uint32_t state = 12345;
  for (auto& byte : bytes) byte = static_cast<char>((state = state * 1664525 + 1013904223) >> 24);
  return bytes;
}

TEST_F(PortsBed, HalfClosesResetsAndSlowReaders) {
  if (!inside()) return runInside();
  auto server = boundIn(kPod, Endpoint::any(AF_INET, 80), SOCK_STREAM);
  publish(pod("a", {{kTcp, 80, 8080, ""}}));
  auto to = at("192.0.2.1", 8080);
  {
    // Each side ends its own direction; the other goes on.
    auto link = linkThrough(server.get(), to);
    ASSERT_TRUE(sendAll(link.client.get(), "question"));
    ::shutdown(link.client.get(), SHUT_WR);
    EXPECT_EQ(receiveAll(link.pod.get()), "question");
    ASSERT_TRUE(sendAll(link.pod.get(), "answer"));
    link.pod.reset();
    EXPECT_EQ(receiveAll(link.client.get()), "answer");
  }
  const linger abort{1, 0};
  {
    auto link = linkThrough(server.get(), to);
    ::setsockopt(link.client.get(), SOL_SOCKET, SO_LINGER, &abort, sizeof abort);
    link.client.reset();
    EXPECT_EQ(readSome(link.pod.get()), "errno " + std::to_string(ECONNRESET));
  }
  {
    auto link = linkThrough(server.get(), to);
    ::shutdown(link.client.get(), SHUT_WR);
    EXPECT_EQ(readSome(link.pod.get()), "");
    ::setsockopt(link.pod.get(), SOL_SOCKET, SO_LINGER, &abort, sizeof abort);
    link.pod.reset();
    EXPECT_EQ(readSome(link.client.get()), "errno " + std::to_string(ECONNRESET));
  }
  // Much in both directions at once, to readers that are slow.
  auto bytes = pattern(8 << 20);
  auto link = linkThrough(server.get(), to);
  std::thread podSends([&] { sendAll(link.pod.get(), bytes), ::shutdown(link.pod.get(), SHUT_WR); });
  std::thread clientSends([&] { sendAll(link.client.get(), bytes), ::shutdown(link.client.get(), SHUT_WR); });
  std::string atPod, atClient;
  std::thread podReads([&] { atPod = receiveAll(link.pod.get(), 2ms); });
  atClient = receiveAll(link.client.get(), 1ms);
  for (auto* thread : {&podSends, &clientSends, &podReads}) thread->join();
  EXPECT_TRUE(atClient == bytes);
  EXPECT_TRUE(atPod == bytes);
  // A pod that does not listen.
  server.reset();
  auto refused = connectedIn("", to, SOCK_STREAM);
  EXPECT_EQ(readSome(refused.get()), "errno " + std::to_string(ECONNRESET));
  for (int tries = 0; tries < 100 && listed().front().connections != 0; ++tries) std::this_thread::sleep_for(10ms);
  EXPECT_EQ(listed().front().connections, 0U);
}

// More readers that do not read than there are pipes: the others go on all the same.
TEST_F(PortsBed, ThoseThatDoNotReadHoldUpNobody) {
  if (!inside()) return runInside();
  auto server = boundIn(kPod, Endpoint::any(AF_INET, 80), SOCK_STREAM);
  publish(pod("a", {{kTcp, 80, 8080, ""}}));
  auto bytes = pattern(4 << 20);
  std::vector<Link> links;
  std::vector<std::thread> senders;
  for (int index = 0; index < 200; ++index) links.push_back(linkThrough(server.get(), at("192.0.2.1", 8080)));
  for (auto& link : links) {
    const timeval time{60, 0};
    ::setsockopt(link.pod.get(), SOL_SOCKET, SO_SNDTIMEO, &time, sizeof time);
    senders.emplace_back([&] {
      EXPECT_TRUE(sendAll(link.pod.get(), bytes));
      ::shutdown(link.pod.get(), SHUT_WR);
    });
  }
  auto other = linkThrough(server.get(), at("192.0.2.1", 8080));
  auto begin = std::chrono::steady_clock::now();
  std::thread sender([&] { sendAll(other.pod.get(), bytes), ::shutdown(other.pod.get(), SHUT_WR); });
  EXPECT_TRUE(receiveAll(other.client.get()) == bytes);
  EXPECT_LT(std::chrono::steady_clock::now() - begin, 3s);
  sender.join();
  for (auto& link : links) EXPECT_TRUE(receiveAll(link.client.get()) == bytes);
  for (auto& thread : senders) thread.join();
}

TEST_F(PortsBed, ConnectionsOutliveTheDaemonAndAReplacement) {
  if (!inside()) return runInside();
  auto server = boundIn(kPod, Endpoint::any(AF_INET, 80), SOCK_STREAM);
  auto second = boundIn(kPod, Endpoint::any(AF_INET, 81), SOCK_STREAM);
  publish(pod("a", {{kTcp, 80, 8080, ""}, {kTcp, 80, 8082, ""}}));
  publish(pod("gone", {{kTcp, 80, 8081, ""}}));
  auto link = linkThrough(server.get(), at("192.0.2.1", 8080));
  auto lost = linkThrough(server.get(), at("192.0.2.1", 8081));
  auto works = [&] {
    return sendAll(link.client.get(), "x") && readSome(link.pod.get()) == "x" && sendAll(link.pod.get(), "y") &&
           readSome(link.client.get()) == "y";
  };
  client_.reset();
  EXPECT_TRUE(works());
  auto during = linkThrough(server.get(), at("192.0.2.1", 8080));
  reopen();
  auto synchronised = client_->synchronise({pod("a", {{kTcp, 81, 8080, ""}}), pod("new", {{kTcp, 80, 8083, ""}})});
  ASSERT_TRUE(synchronised) << synchronised.error().text();
  EXPECT_TRUE(works());
  EXPECT_EQ(readSome(lost.client.get()), "errno " + std::to_string(ECONNRESET));
  std::map<std::string, std::pair<int, std::uint64_t>> served;
  for (const auto& port : listed()) served[port.podId] = {port.mapping.containerPort, port.total};
  std::map<std::string, std::pair<int, std::uint64_t>> expected = {{"a", {81, 2}}, {"new", {80, 0}}};
  EXPECT_EQ(served, expected);
  EXPECT_EQ(seenThrough(second.get(), "", at("192.0.2.1", 8080), "192.0.2.50", 5555), "192.0.2.50:5555");
  EXPECT_FALSE(connectedIn("", at("192.0.2.1", 8082), SOCK_STREAM));
  EXPECT_EQ(seenThrough(server.get(), "", at("192.0.2.1", 8083), "192.0.2.50", 5556), "192.0.2.50:5556");
  ASSERT_TRUE(client_->withdraw("a"));
  EXPECT_FALSE(works());
}

// Processes of that name in the node.
std::vector<pid_t> portProcesses() {
  std::vector<pid_t> found;
  for (const auto& name : namesIn("/proc"))
    if (auto comm = readFile("/proc/" + name + "/comm", 64); comm && trim(*comm) == "userpod-ports")
      found.push_back(std::stoi(name));
  return found;
}

TEST_F(PortsBed, AKilledProcessComesBack) {
  if (!inside()) return runInside();
  EXPECT_TRUE(portProcesses().empty());
  auto server = boundIn(kPod, Endpoint::any(AF_INET, 80), SOCK_STREAM);
  publish(pod("a", {{kTcp, 80, 8080, ""}}));
  publish(pod("b", {{kTcp, 80, 8081, ""}}));
  auto link = linkThrough(server.get(), at("192.0.2.1", 8080));
  auto first = portProcesses();
  ASSERT_EQ(first.size(), 1U);
  ::kill(first.front(), SIGKILL);
  auto begin = std::chrono::steady_clock::now();
  while (std::chrono::steady_clock::now() - begin < 5s) {
    // The old one may have taken a last connection.
    auto now = portProcesses();
    if (now.size() == 1 && now != first && connectedIn("", at("192.0.2.1", 8081), SOCK_STREAM)) break;
    std::this_thread::sleep_for(5ms);
  }
  EXPECT_LT(std::chrono::steady_clock::now() - begin, 1s);
  Endpoint peer;
  EXPECT_TRUE(acceptedFrom(server.get(), peer));
  EXPECT_EQ(seenThrough(server.get(), "", at("192.0.2.1", 8081), "192.0.2.50", 5555), "192.0.2.50:5555");
  EXPECT_NE(readSome(link.client.get()).substr(0, 1), "x");
  EXPECT_EQ(portProcesses().size(), 1U);
  // One that is stopped answers nobody: it is replaced by the request that finds out.
  ::kill(portProcesses().front(), SIGSTOP);
  publish(pod("c", {{kTcp, 80, 8082, ""}}));
  EXPECT_EQ(listed().size(), 3U);
  EXPECT_EQ(portProcesses().size(), 1U);
}

TEST_F(PortsBed, AnotherProtocolEnds) {
  if (!inside()) return runInside();
  // Something that listens there and greets as a later version would.
  auto other = spawn({.argv = {"/usr/bin/python3", "-c", R"(
import os, socket
listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
listener.bind('/run/userpod/ports.sock')
listener.listen(5)
os.open('/run/ready', os.O_CREAT)
connection, _ = listener.accept()
connection.send(b'{"userpod-ports":99}')
connection.recv(10)
listener.accept()
)"}});
  ASSERT_TRUE(other) << other.error().text();
  while (!pathExists("/run/ready")) std::this_thread::sleep_for(5ms);
  reopen();
  auto ended = other->waitFor(0ms);
  EXPECT_TRUE(ended && *ended);
  auto server = boundIn(kPod, Endpoint::any(AF_INET, 80), SOCK_STREAM);
  publish(pod("a", {{kTcp, 80, 8080, ""}}));
  EXPECT_EQ(seenThrough(server.get(), "", at("192.0.2.1", 8080), "192.0.2.50", 5555), "192.0.2.50:5555");
}

TEST_F(PortsBed, ItHasFewPrivilegesAndHearsOnlyItsUser) {
  if (!inside()) return runInside();
  publish(pod("a", {{kTcp, 80, 8080, ""}}));
  auto process = portProcesses();
  ASSERT_EQ(process.size(), 1U);
  auto threads = "/proc/" + std::to_string(process.front()) + "/task";
  constexpr std::uint64_t kNetwork = 1U << 10 | 1U << 12 | 1U << 13;
#ifdef __SANITIZE_THREAD__
  GTEST_SKIP() << "a thread of the sanitizer is older than what the process gives up";
#endif
  for (const auto& thread : namesIn(threads)) {
    auto status = *readFile(threads + "/" + thread + "/status");
    auto found = status.find("CapEff:");
    auto capabilities = std::stoull(status.substr(found + 7), nullptr, 16);
    EXPECT_EQ(capabilities & ~kNetwork, 0U) << thread;
    EXPECT_TRUE(capabilities == 0 || thread != std::to_string(process.front()));
    EXPECT_NE(status.find("NoNewPrivs:\t1"), std::string::npos);
  }
  struct stat info{};
  ASSERT_EQ(::stat("/run/userpod/ports.sock", &info), 0);
  EXPECT_EQ(info.st_mode & 07777, 0600U);
}

TEST(PortMessages, WhatIsDamagedIsRefused) {
  for (const char* text :
       {"", "{", "[]", "null", "{\"request\":\"publish\"}", "{\"request\":5}",
        "{\"request\":\"publish\",\"pod\":\"\",\"addresses\":[],\"ports\":[],\"nodeNetwork\":false,"
        "\"offset\":0}",
        "{\"request\":\"publish\",\"pod\":\"a\",\"addresses\":[],\"ports\":[1],\"nodeNetwork\":false,"
        "\"offset\":0}",
        "\xff"}) {
    auto request = ports::parseRequest(text);
    EXPECT_FALSE(request) << text;
    EXPECT_TRUE(request || request.error().code() == Code::InvalidArgument);
    EXPECT_FALSE(ports::parseAnswer(text)) << text;
    EXPECT_FALSE(ports::parseGreeting(text)) << text;
  }
  EXPECT_EQ(*ports::parseGreeting(ports::greeting()), ports::kProtocol);
  ports::Request request{
      .kind = ports::Request::Kind::Publish,
      .pod = {.podId = "a", .addresses = {"10.0.0.1"}, .ports = {{1, 2, 3, "::1"}}, .nodeNetwork = true},
      .offset = 7};
  auto parsed = ports::parseRequest(ports::requestText(request));
  ASSERT_TRUE(parsed);
  EXPECT_EQ(ports::requestText(*parsed), ports::requestText(request));
  ports::Answer answer{.error = Error(Code::Busy, "text", 5),
                       .taken = ports::Taken{ports::Side::Node, "::", 80, true},
                       .ports = {{.podId = "a", .host = {"x"}, .sourceNote = "n", .connections = 1, .total = 2}},
                       .more = true};
  auto again = ports::parseAnswer(ports::answerText(answer));
  ASSERT_TRUE(again);
  EXPECT_EQ(ports::answerText(*again), ports::answerText(answer));
}

TEST(PortNetworks, ContainByPrefix) {
  ports::Networks networks;
  networks.add(at("10.88.0.0", 0), 16);
  networks.add(at("192.0.2.128", 0), 25);
  networks.add(at("198.51.100.7", 0), 32);
  networks.add(at("fd00::", 0), 64);
  for (const char* inside : {"10.88.255.255", "192.0.2.129", "198.51.100.7", "fd00::1"})
    EXPECT_TRUE(networks.contain(at(inside, 1))) << inside;
  for (const char* outside : {"10.89.0.0", "192.0.2.127", "198.51.100.6", "fd00:0:0:1::", "a58::"})
    EXPECT_FALSE(networks.contain(at(outside, 1))) << outside;
}

}  // namespace
}  // namespace userpod::testing

// Host ports: the daemon's client with a real userpod-ports, on the real kernel, as an ordinary user.
#include "tests/unit/ports_bed.hpp"

namespace userpod::testing {
namespace {

constexpr int kTcp = 0;

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

}  // namespace
}  // namespace userpod::testing

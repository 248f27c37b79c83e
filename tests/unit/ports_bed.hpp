// A node with one pod and a host, in namespaces of the test's own: for tests of host ports.
#pragma once

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sched.h>
#include <sys/socket.h>
#include <sys/time.h>

#include <chrono>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "daemon/network/ports/client.hpp"
#include "daemon/network/ports/endpoint.hpp"
#include "daemon/sys/child.hpp"
#include "daemon/sys/mount.hpp"
#include "daemon/sys/util.hpp"

namespace userpod::testing {

using namespace std::chrono_literals;
using ports::Endpoint;

inline constexpr const char* kNode = "/proc/1/ns/net";
inline constexpr const char* kPod = "/run/netns/pod";
inline constexpr const char* kPodV4 = "10.88.0.5";
inline constexpr const char* kPodV6 = "fd75:7064:88::5";

// What the daemon does in a node, as far as it matters here, and a pod on the bridge.
inline constexpr const char* kNodeScript = R"(set -e
mkdir -p /run/netns /run/userpod
ip link set lo up
sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1
ip link add tap0 type bridge
ip link set tap0 up
ip address add 10.0.2.100/24 dev tap0
ip address add fd00::100/64 dev tap0 nodad
ip route add default via 10.0.2.2
ip -6 route add default via fd00::2
ip link add upbr0 type bridge
ip link set upbr0 addrgenmode none up
ip address add 10.88.0.1/16 dev upbr0
ip address add fd75:7064:88::1/64 dev upbr0 nodad
ip address add fe80::1/64 dev upbr0 nodad
ip netns add pod
ip link add up1 type veth peer name eth0 netns pod
ip link set up1 master upbr0 addrgenmode none up
ip -n pod link set lo up
ip -n pod link set eth0 addrgenmode none up
ip -n pod address add 10.88.0.5/16 dev eth0
ip -n pod address add fd75:7064:88::5/64 dev eth0 nodad
ip -n pod route add default via 10.88.0.1
ip -n pod -6 route add default via fd75:7064:88::1
)";
inline constexpr const char* kRuleScript = R"(set -e
for family in -4 -6; do
  ip $family rule add fwmark 0x76 lookup 117
  ip $family route add local default dev lo table 117
done
nft -f - <<END
table inet userpod {
  chain ports_in { type filter hook prerouting priority mangle; ct direction reply ct mark 0x75 meta mark set 0x76; }
  chain ports_mark { type filter hook output priority mangle; meta mark 0x75 ct mark set 0x75; }
  chain ports_out { type route hook output priority mangle; ct direction reply ct mark 0x75 meta mark set 0x76; }
}
END
)";
// 192.0.2.50 and 2001:db8::50 are clients beyond the host's own.
inline constexpr const char* kHostScript = R"(set -e
ip link set lo up
ip link add lan0 type bridge
ip link set lan0 addrgenmode none up
for host in 1 50; do
  ip address add 192.0.2.$host/24 dev lan0
  ip address add 2001:db8::$host/64 dev lan0 nodad
done
)";

// In the network namespace of that file, in a thread made for it; "": in the caller's, which is the host's. A socket
// made there stays there.
inline void inNetwork(const std::string& path, const std::function<void()>& function) {
  if (path.empty()) return function();
  std::thread([&] {
    auto file = openFile(path, O_RDONLY);
    ASSERT_TRUE(file && ::setns(file->get(), CLONE_NEWNET) == 0) << path;
    function();
  }).join();
}

inline UniqueFd socketIn(const std::string& network, int family, int type) {
  UniqueFd fd;
  inNetwork(network, [&] { fd.reset(::socket(family, type | SOCK_CLOEXEC, 0)); });
  const timeval time{5, 0};
  const int one = 1;
  ::setsockopt(fd.get(), SOL_SOCKET, SO_RCVTIMEO, &time, sizeof time);
  ::setsockopt(fd.get(), SOL_SOCKET, SO_SNDTIMEO, &time, sizeof time);
  // Not of UDP: two could get the same port.
  if (type == SOCK_STREAM) ::setsockopt(fd.get(), SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
  if (family == AF_INET6) ::setsockopt(fd.get(), SOL_IPV6, IPV6_V6ONLY, &one, sizeof one);
  return fd;
}

inline UniqueFd boundIn(const std::string& network, const Endpoint& at, int type) {
  auto fd = socketIn(network, at.family(), type);
  EXPECT_EQ(::bind(fd.get(), at.raw(), at.size()), 0) << at.text() << ": " << std::strerror(errno);
  if (type == SOCK_STREAM) {
    EXPECT_EQ(::listen(fd.get(), 1000), 0);
  }
  return fd;
}

// Connected, or empty with errno.
inline UniqueFd connectedIn(const std::string& network, const Endpoint& to, int type, const std::string& source = "",
                            std::uint16_t sourcePort = 0) {
  auto fd = socketIn(network, to.family(), type);
  if (!source.empty()) {
    auto from = *Endpoint::parse(source, sourcePort);
    EXPECT_EQ(::bind(fd.get(), from.raw(), from.size()), 0) << from.text() << ": " << std::strerror(errno);
  }
  if (::connect(fd.get(), to.raw(), to.size()) == 0) return fd;
  return {};
}

inline UniqueFd acceptedFrom(int listener, Endpoint& peer) {
  socklen_t size = Endpoint::capacity();
  return UniqueFd(::accept4(listener, peer.raw(), &size, SOCK_CLOEXEC));
}

inline Endpoint at(const std::string& address, int port) {
  return *Endpoint::parse(address, static_cast<std::uint16_t>(port));
}

inline bool shell(const std::string& script) {
  auto result = run({.argv = {"/bin/sh", "-c", script}, .environment = {"PATH=/usr/sbin:/usr/bin:/sbin:/bin"}}, 20s);
  if (result && result->status.code == 0) return true;
  ADD_FAILURE() << (result ? result->err : result.error().text());
  return false;
}

// Each test starts itself again inside user, mount, PID and network namespaces, as an ordinary user.
class PortsBed : public ::testing::Test {
 protected:
  static bool inside() { return ::getenv("USERPOD_TEST_NODE") != nullptr; }

  static void runInside() {
    std::vector<std::string> command = {
        "/usr/bin/unshare", "--user",       "--map-root-user", "--net",   "--mount", "--pid",
        "--fork",           "--mount-proc", "--kill-child",    "/bin/sh", "-c"};
    auto probe = command;
    probe.emplace_back("true");
    auto able = run({.argv = probe}, 10s);
    if (!able || able->status.code != 0)
      GTEST_SKIP() << "no user namespace here: " << (able ? able->err : able.error().text());
    const auto* test = ::testing::UnitTest::GetInstance()->current_test_info();
    // A shell stays the node's process 1, as the holder's is not the daemon.
    command.insert(command.end(), {"\"$0\" \"$1\"; exit $?", std::filesystem::read_symlink("/proc/self/exe"),
                                   std::string("--gtest_filter=") + test->test_suite_name() + "." + test->name()});
    auto result = run({.argv = command, .environment = {"USERPOD_TEST_NODE=1", "PATH=/usr/sbin:/usr/bin:/sbin:/bin"}},
                      100s, 1 << 20);
    ASSERT_TRUE(result) << result.error().text();
    EXPECT_EQ(result->status.code, 0) << result->out << result->err;
    if (result->status.code == 0 && ::getenv("USERPOD_TEST_VERBOSE") != nullptr)
      std::fputs((result->out + result->err).c_str(), stderr);
  }

  void SetUp() override {
    if (!inside()) return;
    ASSERT_TRUE(mountFilesystem("tmpfs", "tmpfs", "/run", 0));
    ASSERT_TRUE(shell(kNodeScript));
    ASSERT_TRUE(!rules() || shell(kRuleScript));
    paths_.node = "/run/userpod";
    node_.networkNamespace = *openFile("/proc/self/ns/net", O_RDONLY);
    node_.cgroupRoot.clear();
    ASSERT_EQ(::unshare(CLONE_NEWNET), 0);
    ASSERT_TRUE(shell(kHostScript));
    reopen();
  }
  virtual bool rules() const { return true; }

  void reopen() {
    client_.reset();
    auto opened = network::openPorts(USERPOD_PORTS, paths_, settings_, node_);
    ASSERT_TRUE(opened) << opened.error().text();
    client_ = std::move(*opened);
  }

  static network::PublishedPod pod(const std::string& id, const std::vector<PortMapping>& ports) {
    return {.podId = id, .addresses = {kPodV4, kPodV6}, .ports = ports};
  }
  void publish(const network::PublishedPod& pod) {
    auto status = client_->publish(pod);
    EXPECT_TRUE(status) << status.error().text();
  }
  std::vector<network::PublishedPort> listed() {
    auto ports = client_->list();
    EXPECT_TRUE(ports) << ports.error().text();
    return ports ? *ports : std::vector<network::PublishedPort>();
  }
  // The text of the refusal.
  std::string refused(const network::PublishedPod& pod, Code code) {
    auto status = client_->publish(pod);
    if (status) {
      ADD_FAILURE() << "not refused";
      return {};
    }
    EXPECT_EQ(status.error().code(), code) << status.error().text();
    return status.error().text();
  }

  Paths paths_;
  Settings settings_;
  NodeInside node_;
  std::unique_ptr<network::Ports> client_;
};

}  // namespace userpod::testing

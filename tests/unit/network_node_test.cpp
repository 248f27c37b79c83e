// Pod networks on the real kernel, as an ordinary user. Each test starts itself again inside user, mount, PID, IPC, UTS
// and network namespaces of its own, made by unshare(1), and leaves with them whatever it made.
#include <arpa/inet.h>
#include <fcntl.h>
#include <gtest/gtest.h>
#include <linux/rtnetlink.h>
#include <linux/veth.h>
#include <net/if.h>
#include <netinet/in.h>
#include <poll.h>
#include <sched.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cstring>
#include <filesystem>
#include <functional>
#include <iostream>
#include <set>
#include <thread>

#include "daemon/network/network.hpp"
#include "daemon/sys/child.hpp"
#include "daemon/sys/fd.hpp"
#include "daemon/sys/mount.hpp"
#include "daemon/sys/netlink.hpp"
#include "daemon/sys/util.hpp"

namespace userpod::network {
namespace {

using namespace std::chrono_literals;
using Clock = std::chrono::steady_clock;

// In the namespace of that file, in a thread made for it. A socket made there stays there.
void inNamespace(const std::string& path, int type, const std::function<void()>& function) {
  std::thread([&] {
    auto file = openFile(path, O_RDONLY);
    if (!file || ::setns(file->get(), type) < 0) {
      ADD_FAILURE() << "cannot join " << path;
      return;
    }
    function();
  }).join();
}

UniqueFd tcpSocket(const std::string& network) {
  UniqueFd fd;
  inNamespace(network, CLONE_NEWNET,
              [&] { fd.reset(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0)); });
  return fd;
}

sockaddr_in at(const std::string& address, int port) {
  sockaddr_in name{};
  name.sin_family = AF_INET;
  name.sin_port = htons(static_cast<std::uint16_t>(port));
  ::inet_pton(AF_INET, address.c_str(), &name.sin_addr);
  return name;
}

UniqueFd listenIn(const std::string& network, int port) {
  auto fd = tcpSocket(network);
  auto name = at("0.0.0.0", port);
  EXPECT_EQ(::bind(fd.get(), reinterpret_cast<sockaddr*>(&name), sizeof(name)), 0) << errno;
  EXPECT_EQ(::listen(fd.get(), 10), 0);
  return fd;
}

bool connects(const std::string& network, const std::string& address, int port, const std::string& source = "",
              std::chrono::milliseconds time = 2s) {
  auto fd = tcpSocket(network);
  if (!source.empty()) {
    auto name = at(source, 0);
    if (::bind(fd.get(), reinterpret_cast<sockaddr*>(&name), sizeof(name)) < 0) return false;
  }
  auto name = at(address, port);
  if (::connect(fd.get(), reinterpret_cast<sockaddr*>(&name), sizeof(name)) == 0) return true;
  pollfd wait{fd.get(), POLLOUT, 0};
  if (errno != EINPROGRESS || ::poll(&wait, 1, static_cast<int>(time.count())) != 1) return false;
  int error = 0;
  socklen_t size = sizeof(error);
  ::getsockopt(fd.get(), SOL_SOCKET, SO_ERROR, &error, &size);
  return error == 0;
}

ino_t inode(const std::string& path) {
  struct stat info{};
  EXPECT_EQ(::stat(path.c_str(), &info), 0) << path;
  return info.st_ino;
}

// A node as the holder makes it, as far as pod networks need one. The test's main thread then leaves the node's network
// namespace, as the daemon is not in it either.
class InNode : public ::testing::Test {
 protected:
  static bool inside() { return ::getenv("USERPOD_TEST_NODE") != nullptr; }

  // Outside: runs this test inside, and takes over its result.
  static void runInside() {
    std::vector<std::string> command = {
        "/usr/bin/unshare", "--user",       "--map-root-user", "--net",   "--mount", "--pid", "--ipc", "--uts",
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
    const std::string& out = result->out;
    constexpr std::string_view kTime = "[   TIME   ]";
    for (auto found = out.find(kTime); found != std::string::npos; found = out.find(kTime, found + 1))
      std::cout << out.substr(found, out.find('\n', found) - found) << std::endl;
    constexpr std::string_view kSkipped = ": Skipped\n";
    if (auto found = out.find(kSkipped); found != std::string::npos) {
      found += kSkipped.size();
      GTEST_SKIP() << out.substr(found, out.find('\n', found) - found);
    }
  }

  void SetUp() override {
    if (!inside()) return;
    ASSERT_TRUE(mountFilesystem("tmpfs", "tmpfs", "/run", 0));
    paths_ = {.runtime = "/run/user/userpod", .data = "/run/data", .config = "/run/config", .node = "/run/userpod"};
    node_.networkNamespace = *openFile("/proc/self/ns/net", O_RDONLY);
    node_.ipcNamespace = *openFile("/proc/self/ns/ipc", O_RDONLY);
    ASSERT_EQ(::unshare(CLONE_NEWNET), 0);
    restart();
    mounts_ = mounts();
  }

  void restart(const std::vector<std::string>& inUse = {}) {
    network_.reset();
    auto opened = Network::open(paths_, settings_, node_, inUse);
    ASSERT_TRUE(opened) << opened.error().text();
    network_ = std::move(*opened);
  }

  PodNetwork setUp(const std::string& id, PodConfig config = {}) {
    if (config.hostname.empty()) config.hostname = "pod-" + id;
    auto made = network_->setUp(id, config);
    EXPECT_TRUE(made) << made.error().text();
    return made ? *made : PodNetwork{};
  }

  // Those below /run, where all of ours are: the options of the machine's others may change meanwhile.
  static std::string mounts() {
    std::string own;
    for (const auto& line : split(*readFile("/proc/self/mountinfo"), '\n'))
      if (line.find(" /run/") != std::string::npos) own += line + "\n";
    return own;
  }
  std::string pinOf(const std::string& id) const { return paths_.pin(id); }

  // The kernel reaps links in the background: the names in the node once they are `count`, or after 5 seconds.
  static std::set<std::string> links(std::size_t count) {
    std::set<std::string> names;
    for (auto until = Clock::now() + 5s;;) {
      names.clear();
      inNamespace(kNode, CLONE_NEWNET, [&] {
        auto* list = ::if_nameindex();
        for (auto* entry = list; entry != nullptr && entry->if_index != 0; ++entry) names.insert(entry->if_name);
        ::if_freenameindex(list);
      });
      if (names.size() == count || Clock::now() > until) return names;
      std::this_thread::sleep_for(5ms);
    }
  }

  static constexpr const char* kNode = "/proc/1/ns/net";
  Paths paths_;
  Settings settings_;
  NodeInside node_;
  std::unique_ptr<Network> network_;
  std::string mounts_;
};

TEST_F(InNode, PodsReachEachOtherTheNodeAndThemselves) {
  if (!inside()) return runInside();
  auto a = setUp("a");
  auto b = setUp("b");
  ASSERT_EQ(a.addresses, std::vector<std::string>{"10.88.0.2"});
  ASSERT_EQ(b.addresses, std::vector<std::string>{"10.88.0.3"});
  auto inA = listenIn(a.namespaces.network, 8080);
  auto inNode = listenIn(kNode, 9090);
  EXPECT_TRUE(connects(b.namespaces.network, "10.88.0.2", 8080));
  EXPECT_TRUE(connects(b.namespaces.network, "10.88.0.1", 9090));
  EXPECT_TRUE(connects(kNode, "10.88.0.2", 8080));
  EXPECT_TRUE(connects(a.namespaces.network, "127.0.0.1", 8080));
  EXPECT_FALSE(connects(b.namespaces.network, "127.0.0.1", 8080));
  inNamespace(a.namespaces.uts, CLONE_NEWUTS, [] {
    std::array<char, 65> name{};
    ::gethostname(name.data(), name.size());
    EXPECT_STREQ(name.data(), "pod-a");
  });
  std::set<ino_t> different = {inode(a.namespaces.ipc),     inode(b.namespaces.ipc),     inode("/proc/1/ns/ipc"),
                               inode(a.namespaces.uts),     inode(b.namespaces.uts),     inode("/proc/1/ns/uts"),
                               inode(a.namespaces.network), inode(b.namespaces.network), inode(kNode)};
  EXPECT_EQ(different.size(), 9U);
}

// A network behind the node that knows no way back to the pods' subnet: only the node's own address is answered.
UniqueFd makeOutside() {
  UniqueFd listener;
  std::thread([&] {
    ASSERT_EQ(::unshare(CLONE_NEWNET), 0);
    auto own = openFile("/proc/thread-self/ns/net", O_RDONLY);
    auto outside = Netlink::open();
    auto node = openFile("/proc/1/ns/net", O_RDONLY);
    NetlinkBatch veth;
    veth.begin<ifinfomsg>(RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, "add veth");
    veth.putText(IFLA_IFNAME, "out0");
    veth.openNest(IFLA_LINKINFO);
    veth.putText(IFLA_INFO_KIND, "veth");
    veth.openNest(IFLA_INFO_DATA);
    veth.openNest(VETH_INFO_PEER);
    veth.raw<ifinfomsg>();
    veth.putText(IFLA_IFNAME, "out1");
    veth.putU32(IFLA_NET_NS_FD, static_cast<std::uint32_t>(node->get()));
    veth.closeNest();
    veth.closeNest();
    veth.closeNest();
    auto made = outside->run(veth);
    ASSERT_TRUE(made) << made.error().text();
    auto configure = [](const std::string& link, const std::string& address) {
      auto socket = Netlink::open();
      NetlinkBatch batch;
      auto index = socket->linkIndex(link);
      ASSERT_TRUE(index);
      auto& up = batch.begin<ifinfomsg>(RTM_NEWLINK, 0, "up");
      up.ifi_index = static_cast<int>(*index);
      up.ifi_flags = up.ifi_change = IFF_UP;
      auto& body = batch.begin<ifaddrmsg>(RTM_NEWADDR, NLM_F_CREATE, "address");
      body.ifa_family = AF_INET;
      body.ifa_prefixlen = 24;
      body.ifa_index = *index;
      auto name = at(address, 0);
      batch.put(IFA_LOCAL, &name.sin_addr, 4);
      auto done = socket->run(batch);
      ASSERT_TRUE(done) << done.error().text();
    };
    configure("out0", "192.0.2.2");
    listener = listenIn("/proc/" + std::to_string(::getpid()) + "/task/" + std::to_string(::gettid()) + "/ns/net", 80);
    ASSERT_EQ(::setns(node->get(), CLONE_NEWNET), 0);
    configure("out1", "192.0.2.1");
  }).join();
  return listener;
}

TEST_F(InNode, OutgoingConnectionsTakeTheNodesAddress) {
  if (!inside()) return runInside();
  if (!network_->note().empty()) GTEST_SKIP() << network_->note();
  auto pod = setUp("a");
  auto listener = makeOutside();
  ASSERT_TRUE(connects(pod.namespaces.network, "192.0.2.2", 80));
  sockaddr_in peer{};
  socklen_t size = sizeof(peer);
  UniqueFd accepted(::accept(listener.get(), reinterpret_cast<sockaddr*>(&peer), &size));
  EXPECT_EQ(peer.sin_addr.s_addr, at("192.0.2.1", 0).sin_addr.s_addr);
}

TEST_F(InNode, APodCannotTakeAnothersAddress) {
  if (!inside()) return runInside();
  if (!network_->note().empty()) GTEST_SKIP() << network_->note();
  auto a = setUp("a");
  auto b = setUp("b");
  auto listener = listenIn(a.namespaces.network, 8080);
  inNamespace(b.namespaces.network, CLONE_NEWNET, [] {
    auto socket = Netlink::open();
    auto index = socket->linkIndex("eth0");
    ASSERT_TRUE(index);
    NetlinkBatch batch;
    auto& body = batch.begin<ifaddrmsg>(RTM_NEWADDR, NLM_F_CREATE, "address");
    body.ifa_family = AF_INET;
    body.ifa_prefixlen = 16;
    body.ifa_index = *index;
    auto name = at("10.88.0.77", 0);
    batch.put(IFA_LOCAL, &name.sin_addr, 4);
    auto done = socket->run(batch);
    ASSERT_TRUE(done) << done.error().text();
  });
  EXPECT_TRUE(connects(b.namespaces.network, "10.88.0.2", 8080));
  EXPECT_FALSE(connects(b.namespaces.network, "10.88.0.2", 8080, "10.88.0.77", 300ms));
}

TEST_F(InNode, SysctlsAreSetInThePodOnly) {
  if (!inside()) return runInside();
  PodConfig config;
  config.sysctls = {{"net.ipv4.ip_unprivileged_port_start", "0"},
                    {"net.ipv4.conf.eth0.arp_notify", "1"},
                    {"kernel.shm_rmid_forced", "1"}};
  auto made = network_->setUp("a", (config.hostname = "a", config));
  if (!made && made.error().code() == Code::NotSupported) {
    // Kernels before 5.19 keep those of IPC for the machine's root.
    config.sysctls.erase("kernel.shm_rmid_forced");
    made = network_->setUp("a", config);
  }
  ASSERT_TRUE(made) << made.error().text();
  auto port = [] { return *readFile("/proc/sys/net/ipv4/ip_unprivileged_port_start"); };
  inNamespace(made->namespaces.network, CLONE_NEWNET, [&] {
    EXPECT_EQ(port(), "0\n");
    EXPECT_EQ(*readFile("/proc/sys/net/ipv4/conf/eth0/arp_notify"), "1\n");
  });
  EXPECT_NE(port(), "0\n");
  if (config.sysctls.contains("kernel.shm_rmid_forced"))
    inNamespace(made->namespaces.ipc, CLONE_NEWIPC,
                [] { EXPECT_EQ(*readFile("/proc/sys/kernel/shm_rmid_forced"), "1\n"); });

  for (const auto& [name, value] : StringMap{{"net.ipv4.ip_forward", "nonsense"}, {"net.ipv4.no_such_thing", "1"}}) {
    config.sysctls = {{name, value}};
    auto bad = network_->setUp("b", config);
    ASSERT_FALSE(bad);
    EXPECT_EQ(bad.error().code(), Code::InvalidArgument);
    EXPECT_NE(bad.error().text().find(name), std::string::npos) << bad.error().text();
    EXPECT_FALSE(pathExists(pinOf("b")));
  }
  EXPECT_EQ(links(3).size(), 3U);  // lo, the bridge, a
}

TEST_F(InNode, ShmIsThePodsOwnOrSharedWithTheNodesIpc) {
  if (!inside()) return runInside();
  PodConfig shared;
  shared.security.namespaces.ipc = NamespaceMode::Node;
  for (const char* id : {"a", "b"}) setUp(id);
  for (const char* id : {"c", "d"}) {
    auto pod = setUp(id, shared);
    EXPECT_EQ(pod.namespaces.ipc, "/proc/1/ns/ipc");
    EXPECT_EQ(network_->namespacesOf(id, shared).ipc, "/proc/1/ns/ipc");
    EXPECT_FALSE(pathExists(pinOf(id) + "/ipc"));
  }
  auto shm = [&](const std::string& id) { return paths_.podDirectory(id) + "/shm"; };
  struct stat info{};
  ASSERT_EQ(::stat(shm("a").c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 07777, 01777U);
  ASSERT_TRUE(writeFile(shm("a") + "/x", "a"));
  ASSERT_TRUE(writeFile(shm("c") + "/x", "c"));
  EXPECT_FALSE(pathExists(shm("b") + "/x"));
  EXPECT_EQ(*readFile(shm("d") + "/x"), "c");
  for (const char* id : {"a", "b", "c", "d"}) EXPECT_TRUE(network_->tearDown(id, {}));
  EXPECT_EQ(mounts(), mounts_);
}

TEST_F(InNode, PodOfTheNodesNetworkHasTheNodesNamespaces) {
  if (!inside()) return runInside();
  PodConfig config;
  config.security.namespaces.network = NamespaceMode::Node;
  config.sysctls = {{"net.ipv4.ip_forward", "0"}};  // left out: it is the node's
  auto pod = setUp("a", config);
  EXPECT_TRUE(pod.addresses.empty());
  EXPECT_EQ(pod.namespaces.network, "/proc/1/ns/net");
  EXPECT_EQ(pod.namespaces.uts, "/proc/1/ns/uts");
  EXPECT_EQ(pod.namespaces.ipc, pinOf("a") + "/ipc");
  EXPECT_NE(inode(pod.namespaces.ipc), inode("/proc/1/ns/ipc"));
  EXPECT_EQ(links(2), (std::set<std::string>{"lo", "upbr0"}));
  inNamespace(kNode, CLONE_NEWNET, [] { EXPECT_EQ(*readFile("/proc/sys/net/ipv4/ip_forward"), "1\n"); });
  EXPECT_TRUE(network_->tearDown("a", pod.addresses));
  EXPECT_EQ(mounts(), mounts_);
}

TEST_F(InNode, TearDownLeavesNothingAndMayBeRepeated) {
  if (!inside()) return runInside();
  auto a = setUp("a");
  setUp("b");
  EXPECT_TRUE(network_->tearDown("a", a.addresses));
  EXPECT_TRUE(network_->tearDown("b", {}));  // the store had not yet heard of its address
  EXPECT_TRUE(network_->tearDown("b", {}));
  EXPECT_TRUE(network_->tearDown("never", {"10.88.3.3"}));
  EXPECT_EQ(links(2), (std::set<std::string>{"lo", "upbr0"}));
  EXPECT_EQ(mounts(), mounts_);
  EXPECT_FALSE(pathExists(pinOf("a")));
  EXPECT_FALSE(pathExists(pinOf("b")));
  if (network_->note().empty() && findProgram("nft")) {
    Result<Output> rules = Error(Code::Internal, "");
    inNamespace(kNode, CLONE_NEWNET, [&] { rules = run({.argv = {*findProgram("nft"), "list", "ruleset"}}, 5s); });
    ASSERT_TRUE(rules);
    EXPECT_NE(rules->out.find("masquerade"), std::string::npos) << rules->out << rules->err;
    EXPECT_EQ(rules->out.find("elements"), std::string::npos) << rules->out;
  }
}

TEST_F(InNode, ALateRepetitionDoesNotFreeAnothersAddress) {
  if (!inside()) return runInside();
  settings_.subnet = "10.99.0.0/29";
  restart();
  auto first = setUp("first");
  EXPECT_TRUE(network_->tearDown("first", first.addresses));
  PodNetwork second;
  std::set<std::string> given;
  for (int i = 0; i < 5; ++i) {
    second = setUp("pod" + std::to_string(i));
    given.insert(second.addresses.at(0));
  }
  EXPECT_EQ(given.size(), 5U);
  EXPECT_EQ(second.addresses, first.addresses);
  EXPECT_TRUE(network_->tearDown("first", first.addresses));
  PodConfig config;
  config.hostname = "one-too-many";
  auto none = network_->setUp("none", config);
  ASSERT_FALSE(none);
  EXPECT_EQ(none.error().code(), Code::NetworkSetupFailed);
  EXPECT_NE(none.error().text().find("subnet"), std::string::npos);
  EXPECT_FALSE(pathExists(pinOf("none")));
}

TEST_F(InNode, PodsLiveThroughARestartOfTheDaemon) {
  if (!inside()) return runInside();
  auto a = setUp("a");
  auto half = setUp("half");
  auto listener = listenIn(a.namespaces.network, 8080);
  restart(a.addresses);
  EXPECT_EQ(network_->namespacesOf("a", {}).network, a.namespaces.network);
  EXPECT_TRUE(connects(kNode, "10.88.0.2", 8080));
  auto b = setUp("b");
  EXPECT_EQ(b.addresses.at(0), "10.88.0.4");
  EXPECT_TRUE(connects(b.namespaces.network, "10.88.0.2", 8080));
  // One that was made when the daemon died, made again under its id: the first one is undone.
  auto again = setUp("half");
  EXPECT_NE(again.addresses, half.addresses);
  EXPECT_EQ(links(5).size(), 5U);
  listener.reset();  // a socket holds its namespace
  restart(a.addresses);
  for (const char* id : {"a", "b", "half"}) EXPECT_TRUE(network_->tearDown(id, {}));
  EXPECT_EQ(links(2).size(), 2U);
  EXPECT_EQ(mounts(), mounts_);
}

// Milliseconds of each call, on that many threads.
std::vector<double> timeEach(int count, int threads, const std::function<void(int)>& function) {
  std::vector<double> times(static_cast<std::size_t>(count));
  std::vector<std::thread> workers;
  for (int worker = 0; worker < threads; ++worker) {
    workers.emplace_back([&, worker] {
      for (int i = worker; i < count; i += threads) {
        auto start = Clock::now();
        function(i);
        times[static_cast<std::size_t>(i)] = std::chrono::duration<double, std::milli>(Clock::now() - start).count();
      }
    });
  }
  for (auto& worker : workers) worker.join();
  std::sort(times.begin(), times.end());
  return times;
}

TEST_F(InNode, AHundredPodsGetAHundredAddresses) {
  if (!inside()) return runInside();
  PodConfig config;
  config.hostname = "many";
  for (int threads : {1, 8}) {
    std::vector<PodNetwork> pods(100);
    auto report = [&](const char* what, const std::vector<double>& times) {
      printf("[   TIME   ] %s of 100 pods, %d threads: p50 %.2f ms, p95 %.2f ms, most %.2f ms\n", what, threads,
             times[50], times[95], times[99]);
    };
    report("setUp", timeEach(100, threads, [&](int i) {
             auto made = network_->setUp("pod" + std::to_string(i), config);
             ASSERT_TRUE(made) << made.error().text();
             pods[static_cast<std::size_t>(i)] = *made;
           }));
    std::set<std::string> addresses;
    for (const auto& pod : pods) addresses.insert(pod.addresses.at(0));
    EXPECT_EQ(addresses.size(), 100U);
    auto listener = listenIn(pods[99].namespaces.network, 80);
    EXPECT_TRUE(connects(pods[0].namespaces.network, pods[99].addresses[0], 80));
    report("tearDown", timeEach(100, threads, [&](int i) {
             EXPECT_TRUE(network_->tearDown("pod" + std::to_string(i), pods[static_cast<std::size_t>(i)].addresses));
           }));
    listener.reset();
    EXPECT_EQ(links(2), (std::set<std::string>{"lo", "upbr0"}));
  }
  EXPECT_EQ(mounts(), mounts_);
}

// Of this thread's network namespace.
void setLoopbackUp() {
  UniqueFd any(::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  ifreq request{};
  std::strcpy(request.ifr_name, "lo");
  request.ifr_flags = IFF_UP;
  EXPECT_EQ(::ioctl(any.get(), SIOCSIFFLAGS, &request), 0);
}

TEST_F(InNode, SocketsOfAPodAreInItsNamespace) {
  if (!inside()) return runInside();
  auto pod = setUp("a");
  PodConfig config;
  config.security.namespaces.network = NamespaceMode::Node;
  auto ofNode = setUp("b", config);
  for (const auto& path : {pod.namespaces.network, ofNode.namespaces.network}) {
    auto listener = listenIn(path, 8080);
    auto sockets = socketsIn(path);
    ASSERT_TRUE(sockets) << sockets.error().text();
    for (int fd : {sockets->v4.get(), sockets->v6.get()}) {
      ASSERT_GE(fd, 0);
      EXPECT_NE(::fcntl(fd, F_GETFL) & O_NONBLOCK, 0);
      EXPECT_NE(::fcntl(fd, F_GETFD) & FD_CLOEXEC, 0);
    }
    inNamespace(path, CLONE_NEWNET, setLoopbackUp);
    auto name = at("127.0.0.1", 8080);
    ::connect(sockets->v4.get(), reinterpret_cast<sockaddr*>(&name), sizeof(name));
    pollfd wait{sockets->v4.get(), POLLOUT, 0};
    EXPECT_EQ(::poll(&wait, 1, 2000), 1);
    EXPECT_EQ(wait.revents, POLLOUT) << "refused in " << path;
    auto other = socketsIn("/proc/self/ns/net");
    ASSERT_TRUE(other);
    EXPECT_LT(::connect(other->v4.get(), reinterpret_cast<sockaddr*>(&name), sizeof(name)), 0) << "in this one";
    EXPECT_NE(errno, EINPROGRESS);
  }
  auto gone = socketsIn("/run/userpod/ns/never/net");
  ASSERT_FALSE(gone);
  EXPECT_EQ(gone.error().sysErrno(), ENOENT) << gone.error().text();
  EXPECT_FALSE(socketsIn(pod.namespaces.uts)) << "no network namespace";
}

TEST_F(InNode, ListensOnBothLoopbacks) {
  if (!inside()) return runInside();
  setLoopbackUp();
  inNamespace(kNode, CLONE_NEWNET, setLoopbackUp);
  for (int i = 0; i < 3; ++i) {
    auto both = listenOnLoopback(node_.networkNamespace.get());
    ASSERT_TRUE(both) << both.error().text();
    EXPECT_TRUE(connects("/proc/self/ns/net", "127.0.0.1", both->port));
    EXPECT_TRUE(connects(kNode, "127.0.0.1", both->port));
    for (int fd : {both->host.get(), both->node.get()}) {
      EXPECT_NE(::fcntl(fd, F_GETFL) & O_NONBLOCK, 0);
      EXPECT_NE(::fcntl(fd, F_GETFD) & FD_CLOEXEC, 0);
      UniqueFd caller(::accept4(fd, nullptr, nullptr, SOCK_CLOEXEC));
      EXPECT_TRUE(caller);
    }
  }
  // A port that is free on one side only is not taken; without any that is free on both it says so.
  ASSERT_TRUE(writeFile("/proc/sys/net/ipv4/ip_local_port_range", "40000 40002"));
  UniqueFd first, second;
  first = listenIn(kNode, 40000);
  second = listenIn(kNode, 40002);
  {
    auto both = listenOnLoopback(node_.networkNamespace.get());
    ASSERT_TRUE(both) << both.error().text();
    EXPECT_EQ(both->port, 40001);
    auto none = listenOnLoopback(node_.networkNamespace.get());
    ASSERT_FALSE(none);
    EXPECT_EQ(none.error().code(), Code::NetworkSetupFailed) << none.error().text();
  }
  EXPECT_TRUE(listenOnLoopback(node_.networkNamespace.get()));
}

}  // namespace
}  // namespace userpod::network

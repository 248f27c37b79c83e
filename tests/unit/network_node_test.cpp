// Pod networks on the real kernel: see network_bed.hpp.
#include "tests/unit/network_bed.hpp"

namespace userpod::network {
namespace {

TEST_F(InNode, PodsReachEachOtherTheNodeAndThemselves) {
  if (!inside()) return runInside();
  auto a = setUp("a");
  auto b = setUp("b");
  ASSERT_EQ(a.addresses, (std::vector<std::string>{"10.88.0.2", "fd75:7064:88::2"}));
  ASSERT_EQ(b.addresses, (std::vector<std::string>{"10.88.0.3", "fd75:7064:88::3"}));
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
  auto made = trySetUp("a", config);
  if (!made && made.error().code() == Code::NotSupported) {
    // Kernels before 5.19 keep those of IPC for the machine's root.
    config.sysctls.erase("kernel.shm_rmid_forced");
    made = trySetUp("a", config);
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
    auto bad = trySetUp("b", config);
    ASSERT_FALSE(bad);
    EXPECT_EQ(bad.error().code(), Code::InvalidArgument);
    EXPECT_NE(bad.error().text().find(name), std::string::npos) << bad.error().text();
    EXPECT_EQ(std::distance(std::filesystem::directory_iterator(paths_.node + "/ns"), {}), 1);
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
    EXPECT_EQ(network_->namespacesOf(pods_.at(id)).ipc, "/proc/1/ns/ipc");
    EXPECT_FALSE(pathExists(pinOf(id) + "/ipc"));
  }
  auto shm = [&](const std::string& name) { return paths_.podDirectory(pods_.at(name).id) + "/shm"; };
  struct stat info{};
  ASSERT_EQ(::stat(shm("a").c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 07777, 01777U);
  ASSERT_TRUE(writeFile(shm("a") + "/x", "a"));
  ASSERT_TRUE(writeFile(shm("c") + "/x", "c"));
  EXPECT_FALSE(pathExists(shm("b") + "/x"));
  EXPECT_EQ(*readFile(shm("d") + "/x"), "c");
  for (const char* name : {"a", "b", "c", "d"}) tearDown(name);
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
  tearDown("a");
  EXPECT_EQ(mounts(), mounts_);
}

TEST_F(InNode, TearDownLeavesNothingAndMayBeRepeated) {
  if (!inside()) return runInside();
  setUp("a");
  setUp("b");
  tearDown("a");
  EXPECT_TRUE(network_->tearDown(PodRecord{.id = pods_.at("b").id}));  // the store is lost
  tearDown("b");
  tearDown("b");
  EXPECT_TRUE(network_->tearDown(PodRecord{.id = "never", .addresses = {"10.88.3.3"}}));
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

TEST_F(InNode, AnAddressIsGivenAgainAfterTheDelayAndALateRepetitionDoesNotFreeIt) {
  if (!inside()) return runInside();
  settings_.subnet = "10.99.0.0/29";
  settings_.addressReuseDelay = 1;
  restart();
  auto first = setUp("first");
  tearDown("first");
  auto freed = Clock::now();
  for (int i = 0; i < 4; ++i) EXPECT_NE(setUp("pod" + std::to_string(i)).addresses.at(0), first.addresses.at(0));
  auto none = trySetUp("none");
  ASSERT_FALSE(none);
  EXPECT_EQ(none.error().code(), Code::NetworkSetupFailed);
  EXPECT_NE(none.error().text().find("address-reuse-delay"), std::string::npos);
  std::this_thread::sleep_until(freed + 1100ms);
  EXPECT_EQ(setUp("pod4").addresses, first.addresses);
  tearDown("first");
  EXPECT_FALSE(trySetUp("none"));
  EXPECT_EQ(std::distance(std::filesystem::directory_iterator(paths_.node + "/ns"), {}), 5);
  // The daemon after this one hears of it from its store.
  for (int i = 0; i < 5; ++i) tearDown("pod" + std::to_string(i));
  pods_.clear();
  std::map<std::string, std::int64_t> rest;
  for (int i = 2; i < 7; ++i) rest[fmt::format("10.99.0.{}", i)] = bootNanos();
  restart(rest);
  EXPECT_FALSE(trySetUp("none"));
  std::this_thread::sleep_for(1100ms);
  EXPECT_TRUE(trySetUp("some"));
}

TEST_F(InNode, PodsLiveThroughARestartOfTheDaemon) {
  if (!inside()) return runInside();
  auto a = setUp("a");
  auto listener = listenIn(a.namespaces.network, 8080);
  auto half = setUp("half");
  pods_.erase("half");  // its record is not written
  restart();
  EXPECT_EQ(network_->namespacesOf(pods_.at("a")).network, a.namespaces.network);
  EXPECT_TRUE(connects(kNode, "10.88.0.2", 8080));
  auto b = setUp("b");
  EXPECT_TRUE(connects(b.namespaces.network, "10.88.0.2", 8080));
  // What is not known may not send, and is found by its pins.
  EXPECT_FALSE(connects(half.namespaces.network, "10.88.0.2", 8080, "", 300ms));
  std::size_t undone = 0;
  for (const auto& pin : std::filesystem::directory_iterator(paths_.node + "/ns"))
    if (std::string id = pin.path().filename(); id != pods_.at("a").id && id != pods_.at("b").id)
      undone += network_->tearDown(PodRecord{.id = id}) ? 1 : 0;
  EXPECT_EQ(undone, 1U);
  EXPECT_EQ(links(4).size(), 4U);
  listener.reset();  // a socket holds its namespace
  restart();
  for (const char* name : {"a", "b"}) tearDown(name);
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
  settings_.addressReuseDelay = 0;
  restart();
  for (int threads : {1, 8}) {
    std::vector<PodNetwork> pods(100);
    auto report = [&](const char* what, const std::vector<double>& times) {
      printf("[   TIME   ] %s of 100 pods, %d threads: p50 %.2f ms, p95 %.2f ms, most %.2f ms\n", what, threads,
             times[50], times[95], times[99]);
    };
    report("setUp", timeEach(100, threads,
                             [&](int i) { pods[static_cast<std::size_t>(i)] = setUp("pod" + std::to_string(i)); }));
    std::set<std::string> addresses;
    for (const auto& pod : pods) addresses.insert(pod.addresses.at(0));
    EXPECT_EQ(addresses.size(), 100U);
    auto listener = listenIn(pods[99].namespaces.network, 80);
    EXPECT_TRUE(connects(pods[0].namespaces.network, pods[99].addresses[0], 80));
    report("tearDown", timeEach(100, threads, [&](int i) { tearDown("pod" + std::to_string(i)); }));
    listener.reset();
    EXPECT_EQ(links(2), (std::set<std::string>{"lo", "upbr0"}));
  }
  EXPECT_EQ(mounts(), mounts_);
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

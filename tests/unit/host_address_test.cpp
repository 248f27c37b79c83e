// The host's addresses, in network namespaces of the tests' own: each test starts itself again inside user and network
// namespaces made by unshare(1).
#include "userns/host_address.hpp"

#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <linux/rtnetlink.h>
#include <net/if.h>
#include <poll.h>
#include <stdlib.h>

#include <filesystem>

#include "daemon/sys/child.hpp"
#include "daemon/sys/netlink.hpp"

namespace userpod {
namespace {

std::string both() {
  auto addresses = hostAddresses();
  return addresses.v4 + " " + addresses.v6;
}

class HostAddress : public ::testing::Test {
 protected:
  static bool inside() { return ::getenv("USERPOD_TEST_HOST") != nullptr; }

  // Outside: runs this test inside, and takes over its result.
  static void runInside() {
    std::vector<std::string> command = {"/usr/bin/unshare", "--user", "--map-root-user", "--net"};
    auto probe = command;
    probe.emplace_back("/bin/true");
    auto able = run({.argv = probe}, std::chrono::seconds(10));
    if (!able || able->status.code != 0)
      GTEST_SKIP() << "no user namespace here: " << (able ? able->err : able.error().text());
    const auto* test = ::testing::UnitTest::GetInstance()->current_test_info();
    command.push_back(std::filesystem::read_symlink("/proc/self/exe"));
    command.push_back(std::string("--gtest_filter=") + test->test_suite_name() + "." + test->name());
    auto result = run({.argv = command, .environment = {"USERPOD_TEST_HOST=1"}}, std::chrono::seconds(60));
    ASSERT_TRUE(result) << result.error().text();
    EXPECT_EQ(result->status.code, 0) << result->out << result->err;
  }

  void SetUp() override {
    if (!inside()) return;
    auto opened = Netlink::open();
    ASSERT_TRUE(opened);
    netlink_ = std::make_unique<Netlink>(std::move(*opened));
    link("lo", "");
  }

  // Makes it, of that kind where one is given, and brings it up or down.
  void link(const char* name, const std::string& kind, bool up = true) {
    NetlinkBatch batch;
    auto& body = batch.begin<ifinfomsg>(RTM_NEWLINK, kind.empty() ? 0 : NLM_F_CREATE | NLM_F_EXCL, name);
    body.ifi_flags = up ? IFF_UP : 0;
    body.ifi_change = IFF_UP;
    batch.putText(IFLA_IFNAME, name);
    if (!kind.empty()) {
      batch.openNest(IFLA_LINKINFO);
      batch.putText(IFLA_INFO_KIND, kind);
      batch.closeNest();
    }
    auto done = netlink_->run(batch);
    ASSERT_TRUE(done) << done.error().text();
  }

  void address(const char* name, int family, const char* text, unsigned char prefix) {
    NetlinkBatch batch;
    auto& body = batch.begin<ifaddrmsg>(RTM_NEWADDR, NLM_F_CREATE, text);
    body.ifa_family = static_cast<unsigned char>(family);
    body.ifa_prefixlen = prefix;
    body.ifa_flags = IFA_F_NODAD;
    body.ifa_index = ::if_nametoindex(name);
    putAddress(batch, IFA_LOCAL, family, text);
    auto done = netlink_->run(batch);
    ASSERT_TRUE(done) << done.error().text();
  }

  void defaultRoute(const char* name, int family, const char* gateway, std::uint16_t type = RTM_NEWROUTE) {
    NetlinkBatch batch;
    auto& body = batch.begin<rtmsg>(type, type == RTM_NEWROUTE ? NLM_F_CREATE : 0, gateway);
    body.rtm_family = static_cast<unsigned char>(family);
    body.rtm_table = RT_TABLE_MAIN;
    body.rtm_protocol = RTPROT_STATIC;
    body.rtm_type = RTN_UNICAST;
    putAddress(batch, RTA_GATEWAY, family, gateway);
    batch.putU32(RTA_OIF, ::if_nametoindex(name));
    auto done = netlink_->run(batch);
    ASSERT_TRUE(done) << done.error().text();
  }

 private:
  static void putAddress(NetlinkBatch& batch, std::uint16_t attribute, int family, const char* text) {
    in6_addr binary{};
    ASSERT_EQ(::inet_pton(family, text, &binary), 1);
    batch.put(attribute, &binary, family == AF_INET ? 4 : 16);
  }

  std::unique_ptr<Netlink> netlink_;
};

TEST_F(HostAddress, IsTheDefaultRoutesSource) {
  if (!inside()) return runInside();
  EXPECT_EQ(both(), " ");  // loopback alone names nobody
  link("first", "bridge");
  address("first", AF_INET, "192.168.7.1", 24);
  address("first", AF_INET6, "fd07::1", 64);
  // Without a way out, the first address there is; those of the link do not count.
  EXPECT_EQ(both(), "192.168.7.1 fd07::1");
  link("second", "bridge");
  address("second", AF_INET, "192.168.8.1", 24);
  address("second", AF_INET6, "fd08::1", 64);
  EXPECT_EQ(both(), "192.168.7.1 fd07::1");
  defaultRoute("second", AF_INET, "192.168.8.254");
  defaultRoute("second", AF_INET6, "fd08::fe");
  EXPECT_EQ(both(), "192.168.8.1 fd08::1");
  link("second", "", false);
  EXPECT_EQ(both(), "192.168.7.1 fd07::1");
}

TEST_F(HostAddress, TheWatchHearsOfEachChange) {
  if (!inside()) return runInside();
  auto watch = HostAddressWatch::open();
  ASSERT_TRUE(watch) << watch.error().text();
  auto heard = [&] {
    pollfd entry{watch->fd(), POLLIN, 0};
    bool any = ::poll(&entry, 1, 0) == 1;
    watch->drain();
    EXPECT_EQ(::poll(&entry, 1, 0), 0) << "there is more after drain()";
    return any;
  };
  EXPECT_FALSE(heard());
  link("first", "bridge");
  EXPECT_TRUE(heard());
  ::poll(nullptr, 0, 50);  // the kernel's own link-local address comes later
  (void)heard();
  address("first", AF_INET, "192.168.7.1", 24);
  EXPECT_TRUE(heard());
  address("first", AF_INET6, "fd07::1", 64);
  EXPECT_TRUE(heard());
  defaultRoute("first", AF_INET, "192.168.7.254");
  EXPECT_TRUE(heard());
  defaultRoute("first", AF_INET, "192.168.7.254", RTM_DELROUTE);
  EXPECT_TRUE(heard());
  link("first", "", false);
  EXPECT_TRUE(heard());
}

}  // namespace
}  // namespace userpod

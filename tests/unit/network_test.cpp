// The parts of daemon/network that need no namespace of their own.
#include "daemon/network/network.hpp"

#include <gtest/gtest.h>
#include <stdlib.h>

#include <set>

#include "daemon/network/addresses.hpp"
#include "daemon/network/pod_files.hpp"
#include "daemon/network/rules.hpp"
#include "daemon/network/sysctls.hpp"
#include "daemon/sys/fd.hpp"
#include "userns/resolver.hpp"

namespace userpod::network {
namespace {

TEST(Subnet, TakesAnIpv4Subnet) {
  auto subnet = Subnet::parse("10.88.0.0/16");
  ASSERT_TRUE(subnet) << subnet.error().text();
  EXPECT_EQ(addressText(subnet->gateway()), "10.88.0.1");
  EXPECT_EQ(addressText(subnet->last()), "10.88.255.255");
  EXPECT_EQ(subnet->text(), "10.88.0.0/16");
}

TEST(Subnet, RefusesWhatCannotHoldPods) {
  for (const char* text :
       {"", "10.88.0.0", "10.88.0.0/", "10.88.0.0/16x", "10.88.0.0/-1", "10.88.0.0/31", "10.0.0.0/7", "10.88.0.1/16",
        "127.0.0.0/8", "224.0.0.0/8", "0.0.0.0/8", "fd00::/64", "10.0.2.0/24", "10.0.0.0/8", "10.88.0/16"}) {
    auto subnet = Subnet::parse(text);
    ASSERT_FALSE(subnet) << text;
    EXPECT_EQ(subnet.error().code(), Code::ConfigInvalid) << text;
    EXPECT_NE(subnet.error().text().find(" is no subnet of pods: "), std::string::npos) << subnet.error().text();
  }
  EXPECT_NE(Subnet::parse("10.88.3.7/16").error().text().find("write 10.88.0.0/16"), std::string::npos);
}

TEST(Subnet6, GivesAPodItsIpv4Number) {
  auto subnet = *Subnet::parse("10.88.0.0/16");
  auto subnet6 = Subnet6::parse("fd75:7064:88::/64", subnet);
  ASSERT_TRUE(subnet6) << subnet6.error().text();
  EXPECT_EQ(addressText(subnet6->at(1)), "fd75:7064:88::1");
  EXPECT_EQ(addressText(subnet6->at(0x1234)), "fd75:7064:88::1234");
  EXPECT_EQ(subnet6->text(), "fd75:7064:88::/64");
  EXPECT_TRUE(Subnet6::parse("2001:db8::7:0/112", subnet));
}

TEST(Subnet6, RefusesWhatCannotHoldPods) {
  auto subnet = *Subnet::parse("10.88.0.0/16");
  for (const char* text : {"fd75::", "fd75::/", "fd75::/x", "fd75::/129", "fd75::/113", "fd75::/8", "fd75::1/64",
                           "fe80::/64", "ff02::/64", "::/64", "10.88.0.0/16", "fd00::/64", "fd00::/32"}) {
    auto bad = Subnet6::parse(text, subnet);
    ASSERT_FALSE(bad) << text;
    EXPECT_EQ(bad.error().code(), Code::ConfigInvalid) << text;
    EXPECT_NE(bad.error().text().find(" is no IPv6 subnet of pods: "), std::string::npos) << bad.error().text();
  }
  EXPECT_NE(Subnet6::parse("fd75::1/64", subnet).error().text().find("write fd75::/64"), std::string::npos);
}

constexpr std::int64_t kNow = 1'000'000'000'000;
constexpr std::int64_t kDelay = 30'000'000'000;

TEST(AddressPool, GivesEachAddressOnceAndSaysWhenNoneIsLeft) {
  AddressPool pool(*Subnet::parse("192.168.7.0/28"), kDelay);
  std::set<std::uint32_t> given;
  for (int i = 0; i < 13; ++i) {
    auto address = pool.allocate("pod", kNow);
    ASSERT_TRUE(address);
    EXPECT_TRUE(given.insert(*address).second);
  }
  EXPECT_EQ(addressText(*given.begin()), "192.168.7.2");
  EXPECT_EQ(addressText(*given.rbegin()), "192.168.7.14");
  auto none = pool.allocate("pod", kNow);
  ASSERT_FALSE(none);
  EXPECT_EQ(none.error().code(), Code::NetworkSetupFailed);
  EXPECT_NE(none.error().text().find("subnet in userpod.toml"), std::string::npos);
}

TEST(AddressPool, DoesNotReuseAnAddressBeforeTheOthersNorBeforeTheDelay) {
  AddressPool pool(*Subnet::parse("192.168.7.0/28"), kDelay);
  auto first = *pool.allocate("a", kNow);
  pool.release(first, "a", kNow);
  for (int i = 0; i < 12; ++i) EXPECT_NE(*pool.allocate("b", kNow + 2 * kDelay), first);
  EXPECT_EQ(*pool.allocate("c", kNow + 2 * kDelay), first);
  pool.release(first, "c", kNow + 2 * kDelay);
  EXPECT_FALSE(pool.allocate("d", kNow + 3 * kDelay - 1));
  EXPECT_EQ(*pool.allocate("d", kNow + 3 * kDelay), first);
}

TEST(AddressPool, ATimeThatIsStillToComeKeepsNoAddressBack) {
  AddressPool pool(*Subnet::parse("192.168.7.0/30"), kDelay);
  auto only = *pool.allocate("a", kNow);
  pool.release(only, "a", kNow + 1000 * kDelay);  // by a clock that has been set back since
  EXPECT_EQ(*pool.allocate("b", kNow), only);
}

TEST(AddressPool, ANewDelayCountsAtOnceAlsoForWhatWasFreedBefore) {
  AddressPool pool(*Subnet::parse("192.168.7.0/30"), 0);
  auto only = *pool.allocate("a", kNow);
  pool.release(only, "a", kNow);
  pool.setDelay(kDelay);
  EXPECT_FALSE(pool.allocate("b", kNow + kDelay - 1));
  pool.setDelay(kDelay / 2);
  EXPECT_EQ(*pool.allocate("b", kNow + kDelay - 1), only);
}

TEST(AddressPool, FreesOnlyTheOwnersAddress) {
  AddressPool pool(*Subnet::parse("192.168.7.0/28"), kDelay);
  auto address = *pool.allocate("new", kNow);
  pool.release(address, "old", kNow);
  EXPECT_EQ(pool.used(), 1U);
  pool.release(address, "new", kNow);
  pool.release(address, "new", kNow);
  EXPECT_EQ(pool.used(), 0U);
}

TEST(AddressPool, ReservesWhatLivesAndGoesOnBehindIt) {
  AddressPool pool(*Subnet::parse("192.168.7.0/28"), kDelay);
  pool.reserve(*parseAddress("192.168.7.5"), "x");
  pool.reserve(*parseAddress("192.168.7.1"), "x");   // the bridge's
  pool.reserve(*parseAddress("10.1.1.1"), "x");      // of an earlier setting
  pool.reserve(*parseAddress("192.168.7.15"), "x");  // broadcast
  EXPECT_EQ(pool.used(), 1U);
  pool.rest(*parseAddress("192.168.7.6"), kNow);
  EXPECT_EQ(addressText(*pool.allocate("a", kNow)), "192.168.7.7");
}

TEST(Sysctls, TakeWhatHasANamespace) {
  auto list = checkSysctls({{"net.ipv4.ip_unprivileged_port_start", "0"},
                            {"net/ipv4/conf/eth0.1/forwarding", "1"},
                            {"net.ipv4.conf.eth0/2.forwarding", "1"},
                            {"kernel.shm_rmid_forced", "1"},
                            {"kernel.sem", "32000 1024000000 500 32000"},
                            {"fs.mqueue.msg_max", "100"}},
                           {});
  ASSERT_TRUE(list) << list.error().text();
  std::set<std::string> paths;
  for (const auto& sysctl : *list) paths.insert(sysctl.path);
  EXPECT_EQ(paths, (std::set<std::string>{"net/ipv4/ip_unprivileged_port_start", "net/ipv4/conf/eth0.1/forwarding",
                                          "net/ipv4/conf/eth0.2/forwarding", "kernel/shm_rmid_forced", "kernel/sem",
                                          "fs/mqueue/msg_max"}));
}

TEST(Sysctls, RefuseByNameWhatWouldChangeTheMachineOrLeaveProcSys) {
  for (const char* name :
       {"vm.swappiness", "kernel.pid_max", "kernel.hostname", "kernel.semaphore", "fs.file-max", "net",
        "net/../kernel/pid_max", "net//ipv4", "/net/ipv4/ip_forward", "net.ipv4.a b", "", "..", "net."}) {
    auto list = checkSysctls({{name, "1"}}, {});
    ASSERT_FALSE(list) << name;
    EXPECT_EQ(list.error().code(), Code::InvalidArgument);
    EXPECT_NE(list.error().text().find(name), std::string::npos);
  }
  EXPECT_FALSE(checkSysctls({{"net.ipv4.ip_forward", "1\n0"}}, {}));
}

TEST(Sysctls, LeaveOutThoseOfTheNodesNamespaces) {
  NamespaceOptions node{.network = NamespaceMode::Node, .ipc = NamespaceMode::Pod};
  auto list = checkSysctls({{"net.ipv4.ip_forward", "1"}, {"kernel.shmmax", "1"}}, node);
  ASSERT_TRUE(list);
  ASSERT_EQ(list->size(), 1U);
  EXPECT_EQ(list->front().name, "kernel.shmmax");
}

TEST(PodFiles, ResolvConfAsAskedFor) {
  auto text = resolvConf({.servers = {"1.1.1.1", "fd00::1"}, .searches = {"a.example", "b"}, .options = {"ndots:5"}});
  ASSERT_TRUE(text);
  EXPECT_EQ(*text, "search a.example b\nnameserver 1.1.1.1\nnameserver fd00::1\noptions ndots:5\n");
  EXPECT_EQ(resolvConf({.servers = {"1.1.1.1\nnameserver 6.6.6.6"}}).error().code(), Code::InvalidArgument);
  auto bad = resolvConf({.searches = {"a\r"}});
  ASSERT_FALSE(bad);
  EXPECT_NE(bad.error().text().find("dns_config.searches"), std::string::npos);
  EXPECT_FALSE(resolvConf({.options = {""}}));
  EXPECT_FALSE(resolvConf({.servers = std::vector<std::string>(1000, "1.1.1.1")}));
}

TEST(PodFiles, AreWrittenForAPodAndForTheNodesNetwork) {
  std::string name = ::testing::TempDir() + "/userpod-XXXXXX";
  std::string top = ::mkdtemp(name.data());
  PodConfig config;
  config.dns = DnsConfig{.servers = {"192.0.2.9"}, .searches = {}, .options = {}};
  ASSERT_TRUE(writePodFiles(top + "/pod", config, "web-1", {"10.88.0.2"}));
  EXPECT_EQ(*readFile(top + "/pod/resolv.conf"), "nameserver 192.0.2.9\n");
  EXPECT_EQ(*readFile(top + "/pod/hostname"), "web-1\n");
  auto hosts = *readFile(top + "/pod/hosts");
  EXPECT_NE(hosts.find("127.0.0.1\tlocalhost\n"), std::string::npos);
  EXPECT_NE(hosts.find("10.88.0.2\tweb-1\n"), std::string::npos);
  config.security.namespaces.network = NamespaceMode::Node;
  config.dns.reset();
  ASSERT_TRUE(writePodFiles(top + "/node", config, "machine", {}));
  if (pathExists("/etc/hosts")) {
    EXPECT_EQ(*readFile(top + "/node/hosts"), *readFile("/etc/hosts"));
  }
  EXPECT_EQ(*readFile(top + "/node/resolv.conf"), podResolvConf());
  EXPECT_NE(podHosts("web.example.org", {"10.88.0.2", "fd75::2"}, true)
                .find("10.88.0.2\tweb.example.org web\n"
                      "fd75::2\tweb.example.org web\n"
                      "10.0.2.2\thost.userpod.internal\n"),
            std::string::npos);
  EXPECT_EQ(podHosts("web", {"10.88.0.2"}, false).find("host.userpod.internal"), std::string::npos);
  auto bad = writePodFiles(top + "/bad", config, "a\nb", {});
  ASSERT_FALSE(bad);
  EXPECT_EQ(bad.error().code(), Code::InvalidArgument);
  EXPECT_FALSE(checkHostname(std::string(65, 'a')));
  EXPECT_FALSE(checkHostname(""));
  EXPECT_TRUE(removeTree(top));
}

TEST(Rules, EachPortHasItsOwnHardwareAddress) {
  Subnets subnets{*Subnet::parse("10.88.0.0/16"), *Subnet6::parse("fd75::/64", *Subnet::parse("10.88.0.0/16"))};
  EXPECT_EQ(macText(*parseAddress("10.88.1.2")), "0a:58:0a:58:01:02");
  auto add = guardAdd({"up00000001", *parseAddress("10.88.1.2")}, subnets, true);
  EXPECT_NE(add.find("\"up00000001\" . 0a:58:0a:58:01:02 . 10.88.1.2"), std::string::npos) << add;
  EXPECT_NE(add.find("\"up00000001\" . 0a:58:0a:58:01:02 . fd75::102"), std::string::npos) << add;
}

TEST(Rules, HostPortsAreOfTheAddressAskedFor) {
  std::vector<PortMapping> ports = {
      {0, 80, 8080, ""}, {1, 53, 5353, "127.0.0.1"}, {0, 81, 8081, "::1"}, {0, 82, 0, ""}, {0, 83, 8083, "::"}};
  auto text = portsAdd(ports, {"10.88.0.2", "fd75::2", "10.1.1.1"});
  EXPECT_EQ(text,
            "add element inet userpod ports4 { tcp . 8080 : 10.88.0.2 . 80 }\n"
            "add element inet userpod address_ports4 { 127.0.0.1 . udp . 5353 : 10.88.0.2 . 53 }\n"
            "add element inet userpod ports4 { tcp . 8083 : 10.88.0.2 . 83 }\n"
            "add element inet userpod published4 { 10.88.0.2 }\n"
            "add element inet userpod ports6 { tcp . 8080 : fd75::2 . 80 }\n"
            "add element inet userpod address_ports6 { ::1 . tcp . 8081 : fd75::2 . 81 }\n"
            "add element inet userpod ports6 { tcp . 8083 : fd75::2 . 83 }\n"
            "add element inet userpod published6 { fd75::2 }\n");
  EXPECT_EQ(portsAdd({{0, 82, 0, ""}}, {"10.88.0.2"}), "");
}

}  // namespace
}  // namespace userpod::network

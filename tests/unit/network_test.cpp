// The parts of daemon/network that need no namespace of their own.
#include "daemon/network/network.hpp"

#include <gtest/gtest.h>
#include <stdlib.h>

#include <set>

#include "daemon/network/address_pool.hpp"
#include "daemon/network/nftables.hpp"
#include "daemon/network/pod_files.hpp"
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

TEST(Subnet, RefusesWhatCannotHoldPodsAndNamesTheSetting) {
  for (const char* text :
       {"", "10.88.0.0", "10.88.0.0/", "10.88.0.0/16x", "10.88.0.0/-1", "10.88.0.0/31", "10.0.0.0/7", "10.88.0.1/16",
        "127.0.0.0/8", "224.0.0.0/8", "0.0.0.0/8", "fd00::/64", "10.0.2.0/24", "10.0.0.0/8", "10.88.0/16"}) {
    auto subnet = Subnet::parse(text);
    ASSERT_FALSE(subnet) << text;
    EXPECT_EQ(subnet.error().code(), Code::ConfigInvalid) << text;
    EXPECT_NE(subnet.error().text().find("subnet = \""), std::string::npos) << subnet.error().text();
  }
  EXPECT_NE(Subnet::parse("10.88.3.7/16").error().text().find("write 10.88.0.0/16"), std::string::npos);
}

TEST(AddressPool, GivesEachAddressOnceAndSaysWhenNoneIsLeft) {
  AddressPool pool(*Subnet::parse("192.168.7.0/28"));
  std::set<std::uint32_t> given;
  for (int i = 0; i < 13; ++i) {
    auto address = pool.allocate("pod");
    ASSERT_TRUE(address);
    EXPECT_TRUE(given.insert(*address).second);
  }
  EXPECT_EQ(addressText(*given.begin()), "192.168.7.2");
  EXPECT_EQ(addressText(*given.rbegin()), "192.168.7.14");
  auto none = pool.allocate("pod");
  ASSERT_FALSE(none);
  EXPECT_EQ(none.error().code(), Code::NetworkSetupFailed);
  EXPECT_NE(none.error().text().find("subnet in userpod.toml"), std::string::npos);
}

TEST(AddressPool, DoesNotReuseAnAddressAtOnce) {
  AddressPool pool(*Subnet::parse("192.168.7.0/28"));
  auto first = *pool.allocate("a");
  pool.release(first, "a");
  for (int i = 0; i < 12; ++i) EXPECT_NE(*pool.allocate("b"), first);
  EXPECT_EQ(*pool.allocate("c"), first);
}

TEST(AddressPool, FreesOnlyTheOwnersAddress) {
  AddressPool pool(*Subnet::parse("192.168.7.0/28"));
  auto address = *pool.allocate("new");
  pool.release(address, "old");
  EXPECT_EQ(pool.used(), 1U);
  pool.release(address, "new");
  pool.release(address, "new");
  EXPECT_EQ(pool.used(), 0U);
}

TEST(AddressPool, ReservesWhatLivesAndGoesOnBehindIt) {
  AddressPool pool(*Subnet::parse("192.168.7.0/28"));
  pool.reserve(*parseAddress("192.168.7.5"), "");
  pool.reserve(*parseAddress("192.168.7.1"), "");   // the bridge's
  pool.reserve(*parseAddress("10.1.1.1"), "");      // of an earlier setting
  pool.reserve(*parseAddress("192.168.7.15"), "");  // broadcast
  EXPECT_EQ(pool.used(), 1U);
  EXPECT_EQ(addressText(*pool.allocate("a")), "192.168.7.6");
  pool.release(*parseAddress("192.168.7.5"), "anyone");
  EXPECT_EQ(pool.used(), 1U);
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
  EXPECT_EQ(*readFile(top + "/node/resolv.conf"), nodeResolvConf());
  auto bad = writePodFiles(top + "/bad", config, "a\nb", {});
  ASSERT_FALSE(bad);
  EXPECT_EQ(bad.error().code(), Code::InvalidArgument);
  EXPECT_FALSE(checkHostname(std::string(65, 'a')));
  EXPECT_FALSE(checkHostname(""));
  EXPECT_TRUE(removeTree(top));
}

TEST(Nftables, EachPortHasItsOwnHardwareAddress) {
  EXPECT_EQ(macText(*parseAddress("10.88.1.2")), "0a:58:0a:58:01:02");
  EXPECT_NE(guardAdd({"up00000001", *parseAddress("10.88.1.2")}).find("\"up00000001\" . 0a:58:0a:58:01:02 . 10.88.1.2"),
            std::string::npos);
}

}  // namespace
}  // namespace userpod::network

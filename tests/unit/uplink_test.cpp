// Name service in the node, files of the host that are followed, and the choice of the uplink's program.
#include <gtest/gtest.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <filesystem>

#include "userns/host_files.hpp"
#include "userns/resolver.hpp"
#include "userns/uplink_program.hpp"

namespace userpod {
namespace {

constexpr const char* kStub = "# stub\nnameserver 127.0.0.53\noptions edns0 trust-ad\nsearch example.org\n";

TEST(Resolver, TheUplinksServerIsTheLastThatIsRead) {
  std::string node = nodeResolvConf(kStub, true);
  EXPECT_EQ(node, std::string(kStub) + "nameserver 10.0.2.3\n");
  EXPECT_TRUE(namesUplinkResolver(node));
  EXPECT_EQ(nodeResolvConf("nameserver 1.1.1.1\nnameserver 2.2.2.2\nnameserver 3.3.3.3\n", true),
            "nameserver 1.1.1.1\nnameserver 2.2.2.2\nnameserver 10.0.2.3\n");
  EXPECT_EQ(nodeResolvConf("", true), "nameserver 10.0.2.3\n");
  EXPECT_EQ(nodeResolvConf(kStub, false), kStub);
  EXPECT_FALSE(namesUplinkResolver(kStub));
  EXPECT_FALSE(namesUplinkResolver(""));
}

TEST(Resolver, PodsAskTheUplink) {
  EXPECT_EQ(podResolvConf(nodeResolvConf(kStub, true)),
            "nameserver 10.0.2.3\noptions edns0 trust-ad\nsearch example.org\n");
  EXPECT_EQ(podResolvConf(nodeResolvConf("nameserver 192.0.2.1\ndomain example.org\nsortlist 1.2.3.4\n", true)),
            "nameserver 10.0.2.3\ndomain example.org\n");
}

// The uplink's resolver asks IPv4 servers only.
TEST(Resolver, ServersWithIpv6AddressesAloneAreAskedThemselves) {
  EXPECT_EQ(podResolvConf(nodeResolvConf("nameserver 2001:db8::1\nnameserver fe80::1%eth0\n", true)),
            "nameserver 2001:db8::1\nnameserver 10.0.2.3\n");
}

TEST(Resolver, WithoutUplinkReachableServersStay) {
  constexpr const char* kMixed =
      "nameserver 127.0.0.1\nnameserver\t192.0.2.1  # office\nnameserver 2001:db8::1\n"
      "nameserver ::1\nnameserver fe80::1%eth0\nnameserverx 1\n";
  EXPECT_EQ(podResolvConf(kMixed), "nameserver 192.0.2.1\nnameserver 2001:db8::1\n");
  EXPECT_EQ(podResolvConf(""), "");
}

TEST(Resolver, FirstServerOfEachFamily) {
  EXPECT_EQ(nameServers("nameserver fe80::1%eth0\nnameserver ::1\nnameserver 127.0.0.53\nnameserver 1.1.1.1\n"),
            (NameServers{"127.0.0.53", "::1"}));
  EXPECT_EQ(nameServers("nameserver\nnameserver x\n"), NameServers{});
}

TEST(NodeHosts, NameTheHost) {
  EXPECT_EQ(nodeHosts("127.0.0.1 localhost", true), "127.0.0.1 localhost\n10.0.2.2\thost.userpod.internal\n");
  EXPECT_EQ(nodeHosts("127.0.0.1 localhost", false), "127.0.0.1 localhost");
}

class Followed : public testing::Test {
 protected:
  void SetUp() override {
    std::string name = std::filesystem::temp_directory_path() / "uplink-XXXXXX";
    ASSERT_NE(::mkdtemp(name.data()), nullptr);
    top_ = name;
  }
  void TearDown() override { std::filesystem::remove_all(top_); }

  void put(const std::string& name, const std::string& text) { ASSERT_TRUE(writeFile(top_ + "/" + name, text)); }
  void link(const std::string& target, const std::string& name) {
    ::unlink((top_ + "/" + name).c_str());
    ASSERT_EQ(::symlink(target.c_str(), (top_ + "/" + name).c_str()), 0);
  }

  // Whether another text comes within a second; as the holder's loop waits for it.
  static bool changes(FileWatch& watch, std::chrono::milliseconds time = std::chrono::seconds(1)) {
    auto end = std::chrono::steady_clock::now() + time;
    while (std::chrono::steady_clock::now() < end) {
      pollfd entry{watch.fd(), POLLIN, 0};
      int wait = watch.timeout() < 0 ? 100 : std::min(watch.timeout(), 100);
      ::poll(&entry, 1, wait);
      if (watch.look()) return true;
    }
    return false;
  }
  std::string top_;
};

TEST_F(Followed, RewrittenAndReplaced) {
  put("file", "one");
  FileWatch watch({top_ + "/file"});
  EXPECT_EQ(watch.text(), "one");
  EXPECT_FALSE(changes(watch, std::chrono::milliseconds(300)));
  put("file", "two");
  EXPECT_TRUE(changes(watch));
  EXPECT_EQ(watch.text(), "two");
  ASSERT_TRUE(writeFileAtomic(top_ + "/file", "three"));
  EXPECT_TRUE(changes(watch));
  EXPECT_EQ(watch.text(), "three");
  put("file", "four");  // the new file, in place
  EXPECT_TRUE(changes(watch));
  EXPECT_EQ(watch.text(), "four");
  put("other", "x");
  EXPECT_FALSE(changes(watch, std::chrono::milliseconds(300)));
}

TEST_F(Followed, ThroughLinksThatDangleAndMove) {
  std::filesystem::create_directory(top_ + "/etc");
  link("../run/stub/resolv.conf", "etc/resolv.conf");
  FileWatch watch({top_ + "/etc/resolv.conf"});
  EXPECT_EQ(watch.text(), "");
  std::filesystem::create_directories(top_ + "/run/stub");
  EXPECT_FALSE(changes(watch, std::chrono::milliseconds(400)));
  put("run/stub/resolv.conf", "stub");
  EXPECT_TRUE(changes(watch));
  EXPECT_EQ(watch.text(), "stub");
  put("plain", "plain");
  link("../plain", "etc/resolv.conf");
  EXPECT_TRUE(changes(watch));
  EXPECT_EQ(watch.text(), "plain");
  put("run/stub/resolv.conf", "nobody's");
  EXPECT_FALSE(changes(watch, std::chrono::milliseconds(400)));
}

TEST_F(Followed, WhatIsDeletedCountsAsItWas) {
  put("file", "one");
  FileWatch watch({top_ + "/file"});
  ::unlink((top_ + "/file").c_str());
  EXPECT_FALSE(changes(watch, std::chrono::milliseconds(400)));
  EXPECT_EQ(watch.text(), "one");
  put("file", "two");
  EXPECT_TRUE(changes(watch));
}

TEST_F(Followed, SeveralByOneDescriptor) {
  put("one", "1");
  put("two", "2");
  std::filesystem::create_directory(top_ + "/elsewhere");
  put("elsewhere/three", "3");
  FileWatch watch({top_ + "/one", top_ + "/two", top_ + "/elsewhere/three"});
  put("elsewhere/three", "other");
  EXPECT_TRUE(changes(watch));
  ASSERT_TRUE(writeFileAtomic(top_ + "/two", "another"));
  EXPECT_TRUE(changes(watch));
  EXPECT_EQ(watch.text(0) + " " + watch.text(1) + " " + watch.text(2), "1 another other");
}

TEST_F(Followed, AStormOfChangesIsReadNowAndThen) {
  put("file", "0");
  FileWatch watch({top_ + "/file"});
  int seen = 0;
  auto end = std::chrono::steady_clock::now() + std::chrono::seconds(1);
  for (int i = 1; std::chrono::steady_clock::now() < end; ++i) {
    put("file", std::to_string(i));
    seen += watch.look() ? 1 : 0;
  }
  EXPECT_GE(seen, 2);
  EXPECT_LE(seen, 6);
}

class Choice : public Followed {
 protected:
  // A program that says this when it is asked for help.
  std::string program(const std::string& name, const std::string& help) {
    put(name, "#!/bin/sh\ncat <<'END'\n" + help + "\nEND\n");
    ::chmod((top_ + "/" + name).c_str(), 0755);
    return top_ + "/" + name;
  }
  Settings settings(const std::string& uplink, const std::string& pasta) {
    Settings settings;
    settings.uplink = uplink;
    settings.pasta = pasta;
    settings.slirp4netns = program("slirp4netns", "");
    return settings;
  }
  static constexpr const char* kOld =
      "  -f, --foreground\n  -P, --pid FILE\n  -I, --ns-ifname NAME\n  -m, --mtu MTU\n  -a, --address ADDR\n"
      "  -n, --netmask MASK\n  -g, --gateway ADDR\n  -i, --interface NAME\n  --dns-forward ADDR\n  --no-map-gw\n";
  static constexpr const char* kNew = "  --dns-host ADDR\n  --map-host-loopback ADDR";
};

TEST_F(Choice, GoesByOptionsNotByVersion) {
  auto able = chooseUplink(settings("auto", program("able", std::string(kOld) + kNew)));
  EXPECT_EQ(able.name, "pasta");
  EXPECT_EQ(able.path, top_ + "/able");
  auto old = chooseUplink(settings("auto", program("old", kOld)));
  EXPECT_EQ(old.name, "slirp4netns");
  EXPECT_EQ(old.reason, top_ + "/old is too old: it lacks --dns-host, --map-host-loopback");
  auto forced = chooseUplink(settings("pasta", top_ + "/old"));
  EXPECT_TRUE(forced.path.empty());
  EXPECT_NE(forced.reason.find("--dns-host"), std::string::npos);
  auto slirp = chooseUplink(settings("slirp4netns", top_ + "/able"));
  EXPECT_EQ(slirp.name, "slirp4netns");
}

TEST_F(Choice, WhatIsNoPastaIsNotTaken) {
  for (const std::string& path : {top_ + "/missing", program("other", "usage: --dns-hosts")}) {
    auto chosen = chooseUplink(settings("auto", path));
    EXPECT_EQ(chosen.name, "slirp4netns") << path;
    EXPECT_NE(chosen.reason.find(path), std::string::npos) << chosen.reason;
  }
}

bool contains(const std::vector<std::string>& words, const std::vector<std::string>& part) {
  return std::search(words.begin(), words.end(), part.begin(), part.end()) != words.end();
}

TEST(UplinkCommand, HostLoopbackIsClosedUnlessItIsOpened) {
  UplinkPlan plan{42, "fd00::", false, {"127.0.0.53", ""}};
  auto pasta = uplinkCommand({"pasta", "/p", ""}, plan);
  EXPECT_TRUE(contains(pasta, {"--map-host-loopback", "none"}));
  EXPECT_TRUE(contains(pasta, {"--dns-host", "127.0.0.53"}));
  EXPECT_TRUE(contains(pasta, {"--address", "fd00::100"}));
  EXPECT_EQ(pasta.back(), "42");
  auto slirp = uplinkCommand({"slirp4netns", "/s", ""}, plan);
  EXPECT_TRUE(contains(slirp, {"--disable-host-loopback"}));
  EXPECT_TRUE(contains(slirp, {"--enable-ipv6"}));
  EXPECT_TRUE(contains(slirp, {"42", "tap0"}));
  plan.hostLoopback = true;
  plan.prefix6 = kOtherPrefix6;  // which slirp4netns cannot have
  pasta = uplinkCommand({"pasta", "/p", ""}, plan);
  EXPECT_TRUE(contains(pasta, {"--map-host-loopback", "10.0.2.2"}));
  EXPECT_TRUE(contains(pasta, {"--map-host-loopback", "fd75:7064:2::2"}));
  slirp = uplinkCommand({"slirp4netns", "/s", ""}, plan);
  EXPECT_FALSE(contains(slirp, {"--disable-host-loopback"}));
  EXPECT_FALSE(contains(slirp, {"--enable-ipv6"}));
  plan.prefix6 = "";
  EXPECT_TRUE(contains(uplinkCommand({"pasta", "/p", ""}, plan), {"--ipv4-only"}));
}

}  // namespace
}  // namespace userpod

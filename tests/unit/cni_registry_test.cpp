// What CNI knows of its configuration: files that come and go, versions, STATUS.
#include "tests/unit/cni_bed.hpp"

namespace userpod::network {
namespace {

TEST_F(CniNode, TheProblemFollowsTheFiles) {
  if (!inside()) return runInside();
  open();
  EXPECT_HAS(cni_->problem(),
             "no CNI configuration (*.conflist, *.conf, *.json) in /run/config/cni/net.d and "
             "/run/etc/net.d: put one there");
  auto refused = add("none");
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code(), Code::NotReady);
  configure("{\n\"name\": }");
  EXPECT_TRUE(problemHas("/run/etc/net.d/10-pods.conflist: is not JSON: parse error at line 2")) << cni_->problem();
  configure(R"({"name": "pods", "plugins": [{"type": 1}]})");
  EXPECT_TRUE(problemHas("\"plugins[0].type\" must be a string")) << cni_->problem();
  configure(R"({"name": "pods", "cniVersion": "1.0.0", "plugins": [{"type": "late", "ipam": {"type": "later"}}]})");
  EXPECT_TRUE(problemHas("no CNI plugin \"late\" in /run/bin, /usr/lib/cni")) << cni_->problem();
  fakePlugin("late");
  EXPECT_TRUE(problemHas("no CNI plugin \"later\"")) << cni_->problem();
  fakePlugin("later");
  EXPECT_TRUE(soon([&] { return cni_->problem().empty(); })) << cni_->problem();
  ASSERT_TRUE(add("a"));
  // The user's own directory goes first, as soon as it is there.
  ASSERT_TRUE(makeDirectories("/run/config/cni/net.d"));
  ASSERT_TRUE(writeFile("/run/config/cni/net.d/99-own.conf", R"({"name": "own", "type": "late"})"));
  auto chosen = [&] {
    std::string name;
    for (const auto& network : cni_->networks())
      if (network.chosen) name += network.name;
    return name;
  };
  EXPECT_TRUE(soon([&] { return chosen() == "own"; })) << chosen();
  ASSERT_EQ(cni_->networks().size(), 2U);
  EXPECT_EQ(cni_->networks()[1].plugins, std::vector<std::string>{"late"});
  std::filesystem::remove_all("/run/config/cni");
  EXPECT_TRUE(soon([&] { return chosen() == "pods"; })) << chosen();
  std::filesystem::rename("/run/etc/net.d", "/run/etc/away");
  EXPECT_TRUE(problemHas("no CNI configuration")) << cni_->problem();
  std::filesystem::rename("/run/etc/away", "/run/etc/net.d");
  EXPECT_TRUE(soon([&] { return cni_->problem().empty(); })) << cni_->problem();
  ASSERT_EQ(::unlink("/run/bin/late"), 0);
  EXPECT_TRUE(problemHas("no CNI plugin \"late\"")) << cni_->problem();
}

TEST_F(CniNode, ANetworkByName) {
  if (!inside()) return runInside();
  fakePlugin("p");
  configure(R"({"cniVersion": "1.0.0", "name": "first", "type": "p"})", "10.conf");
  configure("{", "20.conf");
  settings_.cniNetwork = "second";
  open();
  EXPECT_HAS(cni_->problem(), "no CNI network \"second\"");
  EXPECT_HAS(cni_->problem(), "there are: first, /run/etc/net.d/20.conf (broken)");
  configure(R"({"cniVersion": "1.0.0", "name": "second", "type": "p"})", "30.conf");
  EXPECT_TRUE(soon([&] { return cni_->problem().empty(); })) << cni_->problem();
  ASSERT_TRUE(add("a"));
  EXPECT_EQ(inputOf("p.ADD")["name"], "second");
}

TEST_F(CniNode, TheVersionIsWhatAllPluginsSpeak) {
  if (!inside()) return runInside();
  chain("0.3.1", {"new", "old"}, R"({"cniVersions": ["0.4.0", "1.1.0"]})");
  script("old.VERSION", R"(echo '{"supportedVersions": ["0.3.1", "0.4.0"]}')");
  open();
  ASSERT_TRUE(add("a"));
  EXPECT_EQ(inputOf("new.ADD")["cniVersion"], "0.4.0");
  script("old.VERSION", R"(echo '{"supportedVersions": ["0.2.0"]}')");
  fakePlugin("old");
  EXPECT_TRUE(problemHas("which not all its plugins speak")) << cni_->problem();
  EXPECT_HAS(cni_->problem(), "old 0.2.0");
}

TEST_F(CniNode, StatusIsAsked) {
  if (!inside()) return runInside();
  chain("1.1.0", {"first", "second"});
  script("second.STATUS", R"(echo '{"code": 50, "msg": "no agent"}'; exit 1)");
  open();
  EXPECT_TRUE(problemHas("network pods: CNI plugin \"second\" (STATUS): no agent (code 50)")) << cni_->problem();
  script("second.STATUS", R"(echo '{"code": 51, "msg": "agent half gone"}'; exit 1)");
  EXPECT_TRUE(soon([&] { return cni_->problem().find("code 51") != std::string::npos; }, 4s)) << cni_->problem();
  ASSERT_EQ(::unlink("/run/second.STATUS"), 0);
  EXPECT_TRUE(soon([&] { return cni_->problem().empty(); }, 4s)) << cni_->problem();
  // One that hangs keeps neither changes of files from being seen nor the daemon from ending.
  script("second.STATUS", "touch \"$dir/asked\"; sleep 1000");
  configure("{");
  EXPECT_TRUE(problemHas("not JSON"));
  chain("1.1.0", {"first", "second"});
  EXPECT_TRUE(soon([] { return pathExists("/run/asked"); }, 4s));
  configure("{");
  EXPECT_TRUE(problemHas("not JSON"));
  auto begin = Clock::now();
  cni_.reset();
  EXPECT_LT(Clock::now() - begin, 2s);
}

}  // namespace
}  // namespace userpod::network

// CDI specifications: which are read, which device is meant, and what a container gets of it.
#include "daemon/oci/cdi.hpp"

#include <gtest/gtest.h>
#include <stdlib.h>
#include <sys/stat.h>

#include "daemon/sys/fd.hpp"

namespace userpod::oci {
namespace {

constexpr const char* kGenerated = R"(---
cdiVersion: 0.5.0
kind: nvidia.com/gpu
containerEdits:
  env:
  - NVIDIA_VISIBLE_DEVICES=void
  deviceNodes:
  - path: /dev/nvidiactl
  hooks:
  - hookName: createContainer
    path: /usr/bin/nvidia-ctk
    args: [nvidia-ctk, hook, update-ldcache, --folder, /usr/lib]
    timeout: 30
  mounts:
  - containerPath: /usr/lib/libcuda.so.1
    hostPath: /usr/lib/x86_64/libcuda.so.1
    options:
    - ro
    - nosuid
    - bind
devices:
- name: "0"
  containerEdits:
    deviceNodes:
    - path: /dev/nvidia0
      hostPath: /dev/host-nvidia0
      permissions: rw
      major: 195
- name: all
  containerEdits:
)";

TEST(Cdi, ReadsWhatGeneratorsWrite) {
  auto spec = parseCdi(kGenerated, true);
  ASSERT_TRUE(spec) << spec.error().text();
  EXPECT_EQ(spec->kind, "nvidia.com/gpu");
  EXPECT_EQ(spec->edits.environment, std::vector<std::string>{"NVIDIA_VISIBLE_DEVICES=void"});
  ASSERT_EQ(spec->edits.nodes.size(), 1U);
  EXPECT_EQ(spec->edits.nodes[0].hostPath, "/dev/nvidiactl");
  ASSERT_EQ(spec->edits.hooks.size(), 1U);
  EXPECT_EQ(spec->edits.hooks[0].first, "createContainer");
  EXPECT_EQ(spec->edits.hooks[0].second.args.size(), 5U);
  EXPECT_EQ(spec->edits.hooks[0].second.timeout, 30);
  ASSERT_EQ(spec->edits.mounts.size(), 1U);
  EXPECT_EQ(spec->edits.mounts[0].options, (std::vector<std::string>{"ro", "nosuid", "bind"}));
  ASSERT_EQ(spec->devices.size(), 2U);
  EXPECT_EQ(spec->devices[0].first, "0");
  EXPECT_EQ(spec->devices[0].second.nodes.at(0).containerPath, "/dev/nvidia0");
  EXPECT_EQ(spec->devices[0].second.nodes.at(0).hostPath, "/dev/host-nvidia0");
  EXPECT_EQ(spec->devices[0].second.nodes.at(0).permissions, "rw");
}

std::string json(const std::string& version, const std::string& edits, const std::string& device = "one") {
  return R"({"cdiVersion":")" + version + R"(","kind":"vendor.example/class","devices":[{"name":")" + device +
         R"(","containerEdits":)" + edits + "}]}";
}

TEST(Cdi, ErrorsNameThePlace) {
  auto error = [](const std::string& text, bool yaml = false) {
    auto spec = parseCdi(text, yaml);
    return spec ? std::string("read") : spec.error().text();
  };
  const std::pair<std::string, const char*> rows[] = {
      {error("{"), "line 1"},
      {error("a: [", true), "line 1"},
      {error("\xff: x", true), "UTF-8"},
      {error("[]"), "not an object"},
      {error("{}"), "cdiVersion is missing"},
      {error(R"({"cdiVersion":"9.9.9","kind":"a/b","devices":[]})"), "cdiVersion is none of 0.3.0"},
      {error(R"({"cdiVersion":"0.6.0","kind":"nothing","devices":[]})"), "kind is not VENDOR/CLASS"},
      {error(R"({"cdiVersion":"0.6.0","kind":"a/b","devices":{}})"), "devices is not a list"},
      {error(R"({"cdiVersion":"0.6.0","kind":"a/b","device":[]})"), "device is not known"},
      {error(R"({"cdiVersion":"0.5.0","kind":"a/b.c"})"), "kind needs cdiVersion 0.6.0"},
      {error(json("0.3.0", R"({"mounts":[{"hostPath":"/a","containerPath":"/b","type":"bind"}]})")),
       "mounts[0].type needs"},
      {error(json("0.4.0", R"({"deviceNodes":[{"path":"/a","hostPath":"/b"}]})")), "hostPath needs cdiVersion 0.5.0"},
      {error(json("0.6.0", R"({"additionalGids":[1]})")), "additionalGids needs cdiVersion 0.7.0"},
      {error(json("0.4.0", "{}", "0")), "devices[0].name needs cdiVersion 0.5.0"},
      {error(json("0.6.0", "{}", "-a")), "devices[0].name may only"},
      {error(json("0.6.0", R"({"env":["A"]})")), "devices[0].containerEdits.env has what is not NAME=value"},
      {error(json("0.6.0", R"({"env":["A=\u0000"]})")), "without NUL"},
      {error(json("0.6.0", R"({"env":[1]})")), "is not a text"},
      {error(json("0.6.0", R"({"deviceNodes":[{"path":"dev"}]})")), "deviceNodes[0].path is not absolute"},
      {error(json("0.6.0", R"({"deviceNodes":[{"path":"/dev/x","permissions":"z"}]})")), "permissions may only"},
      {error(json("0.6.0", R"({"mounts":[{"hostPath":"/a"}]})")), "mounts[0].containerPath is missing"},
      {error(json("0.6.0", R"({"hooks":[{"hookName":"never","path":"/x"}]})")), "hooks[0].hookName is none of"},
      {error(json("0.6.0", R"({"hooks":[{"hookName":"poststop","path":"/x","timeout":0}]})")), "timeout"},
      {error(json("0.7.0", R"({"additionalGids":[-1]})")), "number of a group"},
      {error(json("0.7.0", R"({"intelRdt":{"closID":"a"}})")), "intelRdt needs root"},
      {error(json("1.1.0", R"({"netDevices":[]})")), "netDevices needs root"},
      {error(R"({"cdiVersion":"0.6.0","kind":"a/b","devices":[{"name":"x"},{"name":"x"}]})"), "twice"},
  };
  for (const auto& [text, words] : rows) EXPECT_NE(text.find(words), std::string::npos) << text << " for " << words;
  EXPECT_EQ(parseCdi(json("0.7.0", R"({"intelRdt":{}})"), false).error().code(), Code::NotSupported);
  std::string bomb = "a: &a [x,x,x,x,x,x,x,x,x,x]\n";
  for (char c = 'b'; c < 'k'; ++c) {
    bomb += std::string(1, c) + ": &" + c + " [";
    for (int i = 0; i < 10; ++i) bomb += std::string(i > 0 ? ",*" : "*") + static_cast<char>(c - 1);
    bomb += "]\n";
  }
  EXPECT_NE(error(bomb, true).find("too many values"), std::string::npos);
  EXPECT_NE(error(std::string(100, '['), true), "read");
  EXPECT_NE(error(std::string(kDocumentLimit, '['), true), "read");
  EXPECT_NE(error(std::string(kDocumentLimit, '['), false), "read");
}

class CdiFind : public ::testing::Test {
 protected:
  CdiFind() {
    char pattern[] = "/tmp/cdi-test-XXXXXX";
    top_ = ::mkdtemp(pattern);
    for (const char* name : {"/first", "/second"}) EXPECT_TRUE(makeDirectories(top_ + name));
  }
  ~CdiFind() override { (void)removeTree(top_); }
  void write(const std::string& path, const std::string& value, const std::string& device = "one") {
    EXPECT_TRUE(writeFile(top_ + path, json("0.6.0", R"({"env":["FROM=)" + value + R"("]})", device)));
  }
  std::string find(const std::string& name) {
    auto devices = findCdiDevices({top_ + "/first", top_ + "/none", top_ + "/second"}, {name});
    if (!devices) return devices.error().text();
    warnings_ = devices->warnings;
    return devices->found.at(0).edits->environment.at(0);
  }
  std::string top_;
  std::vector<std::string> warnings_;
};

TEST_F(CdiFind, WhatIsMeant) {
  write("/first/a.json", "first");
  EXPECT_EQ(find("vendor.example/class=one"), "FROM=first");
  write("/second/a.json", "second");
  EXPECT_EQ(find("vendor.example/class=one"), "FROM=second");
  write("/second/b.yaml", "other", "two");  // JSON is YAML too
  EXPECT_EQ(find("vendor.example/class=two"), "FROM=other");
  write("/second/ignored.yml", "ignored", "three");
  write("/second/.hidden.json", "ignored", "three");
  EXPECT_NE(find("vendor.example/class=three").find("no specification in " + top_ + "/first, "), std::string::npos);
  write("/second/c.json", "twice");
  auto twice = find("vendor.example/class=one");
  EXPECT_NE(twice.find("CDI device vendor.example/class=one: both " + top_ + "/second/a.json and"), std::string::npos)
      << twice;
  EXPECT_EQ(find("vendor.example/class=two"), "FROM=other");
  for (const char* name : {"", "one", "vendor.example/class", "vendor.example/class=", "vendor/=x", "a/b/c=d"})
    EXPECT_NE(find(name).find("is not VENDOR/CLASS=DEVICE"), std::string::npos) << name;
}

TEST_F(CdiFind, FilesThatCannotBeRead) {
  write("/first/fine.json", "fine");
  EXPECT_TRUE(writeFile(top_ + "/first/broken.json", "{"));
  EXPECT_TRUE(writeFile(top_ + "/first/large.json", std::string(kDocumentLimit + 1, ' ')));
  ASSERT_EQ(::mkfifo((top_ + "/first/fifo.json").c_str(), 0600), 0);
  EXPECT_EQ(find("vendor.example/class=one"), "FROM=fine");
  EXPECT_EQ(warnings_.size(), 3U);
  auto text = find("vendor.example/class=two");
  for (const char* words :
       {"/first/broken.json: ", "/first/large.json: more than", "/first/fifo.json is not a regular"})
    EXPECT_NE(text.find(words), std::string::npos) << text;
}

TEST(Cdi, Annotations) {
  EXPECT_EQ(annotatedCdiDevices({{"cdi.k8s.io/a", "v/c=1, v/c=2"}, {"other", "v/c=3"}}),
            (std::vector<std::string>{"v/c=1", "v/c=2"}));
}

}  // namespace
}  // namespace userpod::oci

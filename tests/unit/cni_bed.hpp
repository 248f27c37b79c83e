// A node for tests of CNI, in namespaces of the test's own, with cgroups below its own: each test starts itself again
// inside, made by unshare(1). Plugins are small scripts, or Debian's.
#pragma once

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sched.h>
#include <stdlib.h>
#include <sys/mount.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <filesystem>
#include <fstream>
#include <functional>
#include <iostream>
#include <nlohmann/json.hpp>
#include <thread>

#include "daemon/network/cni/cni.hpp"
#include "daemon/sys/child.hpp"
#include "daemon/sys/mount.hpp"
#include "daemon/sys/util.hpp"

namespace userpod::network {

using namespace std::chrono_literals;
using Clock = std::chrono::steady_clock;
using Json = nlohmann::json;

inline constexpr const char* kInsideVariable = "USERPOD_TEST_CNI";

// Logs what it is asked, keeps its input as <type>.<command>.json, and does what <type>.<command> says, if that is
// there; else it succeeds, as a plugin does that adds nothing to the chain.
inline constexpr const char* kFakePlugin = R"(#!/bin/sh
type=${0##*/}; dir=${0%/*}/..
cat > "$dir/$type.$CNI_COMMAND.json"
echo "$CNI_COMMAND $type ${CNI_NETNS:-none}" >> "$dir/log"
env > "$dir/$type.$CNI_COMMAND.env"
[ ! -e "$dir/$type.$CNI_COMMAND" ] || { . "$dir/$type.$CNI_COMMAND"; exit; }
case $CNI_COMMAND in
VERSION) echo '{"cniVersion": "1.1.0", "supportedVersions": ["0.3.1", "0.4.0", "1.0.0", "1.1.0"]}' ;;
ADD) echo '{"ips": [{"address": "10.9.0.2/24"}]}' ;;
esac
)";

class CniNode : public ::testing::Test {
 protected:
  static bool inside() { return ::getenv(kInsideVariable) != nullptr; }

  static void runInside() {
    std::vector<std::string> command = {
        "/usr/bin/unshare", "--user",       "--map-root-user", "--net",   "--mount", "--pid", "--ipc", "--uts",
        "--fork",           "--mount-proc", "--kill-child",    "/bin/sh", "-c"};
    std::string group = ownCgroup();
    auto probe = command;
    probe.push_back("exec mkdir -p \"$0\"/cni-test");
    probe.push_back(group);
    auto able = run({.argv = probe}, 10s);
    if (!able || able->status.code != 0)
      GTEST_SKIP() << "no user namespace or no cgroup of its own here: " << (able ? able->err : able.error().text());
    const auto* test = ::testing::UnitTest::GetInstance()->current_test_info();
    command.insert(command.end(), {"\"$0\" \"$1\"; exit $?", std::filesystem::read_symlink("/proc/self/exe"),
                                   std::string("--gtest_filter=") + test->test_suite_name() + "." + test->name()});
    auto result =
        run({.argv = command,
             .environment = {std::string(kInsideVariable) + "=" + group, "PATH=/usr/sbin:/usr/bin:/sbin:/bin"}},
            100s, 1 << 20);
    ASSERT_TRUE(result) << result.error().text();
    EXPECT_EQ(result->status.code, 0) << result->out << result->err;
    const std::string& out = result->out;
    for (std::string_view mark : {"[   TIME   ]"})
      for (auto found = out.find(mark); found != std::string::npos; found = out.find(mark, found + 1))
        std::cout << out.substr(found, out.find('\n', found) - found) << std::endl;
    constexpr std::string_view kSkipped = ": Skipped\n";
    if (auto found = out.find(kSkipped); found != std::string::npos) {
      found += kSkipped.size();
      GTEST_SKIP() << out.substr(found, out.find('\n', found) - found);
    }
  }

  static std::string ownCgroup() {
    auto text = readFile("/proc/self/cgroup");
    for (const auto& line : split(text ? *text : "", '\n'))
      if (line.starts_with("0::")) return "/sys/fs/cgroup" + line.substr(3);
    return "/nowhere";
  }

  void SetUp() override {
    if (!inside()) return;
    ASSERT_TRUE(mountFilesystem("tmpfs", "tmpfs", "/run", 0));
    paths_ = {.runtime = "/run/user", .data = "/run/data", .config = "/run/config/userpod", .node = "/run/userpod"};
    for (const char* path : {"/run/bin", "/run/etc", "/run/ns", "/run/config"}) ASSERT_TRUE(makeDirectories(path));
    node_.networkNamespace = *openFile("/proc/self/ns/net", O_RDONLY);
    node_.cgroupRoot = std::string(::getenv(kInsideVariable)) + "/cni-test";
    settings_.cniConfigDirs = {"/run/config/cni/net.d", "/run/etc/net.d"};
    settings_.cniPluginDirs = {"/run/bin", "/usr/lib/cni"};
    settings_.cniTimeout = 5;
    inNamespace("/proc/self/ns/net", [] { (void)run({.argv = {"/sbin/ip", "link", "set", "lo", "up"}}, 5s); });
    ASSERT_EQ(::unshare(CLONE_NEWNET), 0);
  }

  void TearDown() override {
    if (!inside()) return;
    cni_.reset();
    (void)node_.removeCgroup("/cni");
  }

  static void inNamespace(const std::string& path, const std::function<void()>& function) {
    std::thread([&] {
      auto file = openFile(path, O_RDONLY);
      if (!file || ::setns(file->get(), CLONE_NEWNET) < 0) {
        ADD_FAILURE() << "cannot join " << path;
        return;
      }
      function();
    }).join();
  }

  // A pinned network namespace; its id is of the length that pods have.
  static std::string makePod(const std::string& name) {
    std::string id = idOf(name), path = pinOf(name);
    std::thread([&] {
      ASSERT_EQ(::unshare(CLONE_NEWNET), 0);
      ASSERT_TRUE(writeFile(path, ""));
      ASSERT_TRUE(bindMount("/proc/thread-self/ns/net", path, false));
    }).join();
    return id;
  }
  static std::string idOf(const std::string& name) { return name + std::string(64 - name.size(), '0'); }
  static std::string pinOf(const std::string& name) { return "/run/ns/" + name; }
  static void dropPod(const std::string& name) {
    ASSERT_TRUE(unmountDetached(pinOf(name)));
    ASSERT_EQ(::unlink(pinOf(name).c_str()), 0);
  }

  static void fakePlugin(const std::string& type) {
    ASSERT_TRUE(writeFileAtomic("/run/bin/" + type, kFakePlugin, 0755));
  }
  static void script(const std::string& file, const std::string& text) { ASSERT_TRUE(writeFile("/run/" + file, text)); }
  static void configure(const std::string& text, const std::string& name = "10-pods.conflist") {
    ASSERT_TRUE(makeDirectories("/run/etc/net.d"));
    ASSERT_TRUE(writeFileAtomic("/run/etc/net.d/" + name, text));
  }
  void chain(const std::string& version, const std::vector<std::string>& types, const std::string& more = "") {
    Json plugins = Json::array();
    for (const auto& type : types) {
      fakePlugin(type);
      plugins.push_back({{"type", type}});
    }
    Json list = {{"name", "pods"}, {"cniVersion", version}, {"plugins", plugins}};
    if (!more.empty()) list.update(Json::parse(more));
    configure(list.dump());
  }

  void open() {
    cni_.reset();
    auto opened = Cni::open(paths_, settings_, node_, "/run/results");
    ASSERT_TRUE(opened) << opened.error().text();
    cni_ = std::move(*opened);
  }
  Result<CniAttachment> add(const std::string& name, const PodConfig& config = {}) {
    return cni_->add(makePod(name), config, "/pods/" + name, pinOf(name));
  }
  // Until it is so, for a second: what the issue allows.
  static bool soon(const std::function<bool()>& holds, std::chrono::milliseconds time = 1s) {
    for (auto until = Clock::now() + time; Clock::now() < until; std::this_thread::sleep_for(5ms))
      if (holds()) return true;
    return holds();
  }
  bool problemHas(const std::string& part) {
    return soon([&] { return cni_->problem().find(part) != std::string::npos; });
  }

  // Its status, as of waitpid(2).
  static int inChild(const std::function<void()>& function) {
    pid_t child = ::fork();
    if (child == 0) {
      function();
      ::_exit(0);
    }
    int status = -1;
    EXPECT_EQ(::waitpid(child, &status, 0), child);
    return status;
  }

  static Json inputOf(const std::string& call) { return Json::parse(*readFile("/run/" + call + ".json")); }
  // Without what is asked in the background.
  static std::string log() {
    auto text = readFile("/run/log");
    std::string all;
    for (const auto& line : split(text ? *text : "", '\n'))
      if (!line.empty() && !line.starts_with("VERSION") && !line.starts_with("STATUS")) all += line + "\n";
    return all;
  }
  static void clearLog() { (void)::unlink("/run/log"); }

  Paths paths_;
  NodeInside node_;
  Settings settings_;
  std::unique_ptr<Cni> cni_;
};

#define EXPECT_HAS(text, part) EXPECT_NE((text).find(part), std::string::npos) << (text)

}  // namespace userpod::network

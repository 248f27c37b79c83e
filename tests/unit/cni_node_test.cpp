// Pods' networks by CNI plugins, in namespaces of the test's own: plugins that are small scripts, and Debian's. Each
// test starts itself again inside, made by unshare(1), with cgroups below its own.
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
namespace {

using namespace std::chrono_literals;
using Clock = std::chrono::steady_clock;
using Json = nlohmann::json;

constexpr const char* kInsideVariable = "USERPOD_TEST_CNI";

// Logs what it is asked, keeps its input as <type>.<command>.json, and does what <type>.<command> says, if that is
// there; else it succeeds, as a plugin does that adds nothing to the chain.
constexpr const char* kFakePlugin = R"(#!/bin/sh
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

TEST_F(CniNode, AChainFromAddToDel) {
  if (!inside()) return runInside();
  chain("1.0.0", {"first", "second"});
  script("first.ADD", R"(echo '{"cniVersion": "1.0.0", "ips": [{"address": "10.9.0.7/24"}], "dns": {}}')");
  script("second.ADD", R"(echo '{"cniVersion": "1.0.0", "ips": [{"address": "10.9.0.8/24"}]}')");
  open();
  PodConfig config{.name = "web", .uid = "u-1", .nameSpace = "default"};
  auto added = add("a", config);
  ASSERT_TRUE(added) << added.error().text();
  EXPECT_EQ(added->addresses, std::vector<std::string>{"10.9.0.8"});
  EXPECT_FALSE(added->mapsPorts);
  EXPECT_EQ(log(), "ADD first /run/ns/a\nADD second /run/ns/a\n");
  EXPECT_EQ(inputOf("second.ADD")["prevResult"]["ips"][0]["address"], "10.9.0.7/24");
  EXPECT_FALSE(inputOf("first.ADD").contains("prevResult"));
  EXPECT_EQ(inputOf("first.ADD")["name"], "pods");
  EXPECT_EQ(inputOf("first.ADD")["cniVersion"], "1.0.0");
  auto environment = *readFile("/run/first.ADD.env");
  EXPECT_HAS(environment, "CNI_CONTAINERID=" + idOf("a") + "\n");
  EXPECT_HAS(environment, "CNI_IFNAME=eth0\n");
  EXPECT_HAS(environment, "CNI_PATH=/run/bin:/usr/lib/cni\n");
  EXPECT_HAS(environment,
             "CNI_ARGS=IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=web;"
             "K8S_POD_INFRA_CONTAINER_ID=" +
                 idOf("a") + ";K8S_POD_UID=u-1\n");
  EXPECT_EQ(environment.find("USERPOD"), std::string::npos) << "nothing of the daemon's own environment";
  inNamespace(pinOf("a"),
              [] { EXPECT_HAS(run({.argv = {"/sbin/ip", "link", "show", "lo"}}, 5s)->out, "LOOPBACK,UP"); });

  EXPECT_TRUE(cni_->check(idOf("a")));
  EXPECT_EQ(inputOf("first.CHECK")["prevResult"]["ips"][0]["address"], "10.9.0.8/24");
  clearLog();
  EXPECT_TRUE(cni_->remove(idOf("a"), pinOf("a")));
  EXPECT_TRUE(cni_->remove(idOf("a"), pinOf("a")));
  EXPECT_EQ(log(), "DEL second /run/ns/a\nDEL first /run/ns/a\n");
  EXPECT_EQ(inputOf("first.DEL")["prevResult"]["ips"][0]["address"], "10.9.0.8/24");
  EXPECT_TRUE(namesIn("/run/results").empty());
  EXPECT_FALSE(pathExists(node_.cgroupRoot + "/cni/pod-" + idOf("a")));
  EXPECT_FALSE(cni_->check(idOf("a")));
  EXPECT_TRUE(cni_->attachment(idOf("a")).addresses.empty());
}

TEST_F(CniNode, OldVersionsGetWhatTheyKnow) {
  if (!inside()) return runInside();
  fakePlugin("old");
  script("old.ADD", R"(echo '{"ip4": {"ip": "10.9.0.3/24"}}')");
  configure(R"({"name": "pods", "type": "old"})", "10.conf");
  open();
  auto added = add("a");
  ASSERT_TRUE(added) << added.error().text();
  EXPECT_EQ(added->addresses, std::vector<std::string>{"10.9.0.3"});
  EXPECT_EQ(inputOf("old.ADD")["cniVersion"], "0.1.0");
  EXPECT_TRUE(cni_->check(idOf("a")));
  EXPECT_TRUE(cni_->collectGarbage({idOf("a")}));
  EXPECT_TRUE(cni_->remove(idOf("a"), pinOf("a")));
  EXPECT_FALSE(inputOf("old.DEL").contains("prevResult"));
  EXPECT_EQ(log(), "ADD old /run/ns/a\nDEL old /run/ns/a\n");
}

TEST_F(CniNode, CapabilitiesReachThePluginsThatTakeThem) {
  if (!inside()) return runInside();
  fakePlugin("a");
  fakePlugin("b");
  configure(R"({"name": "pods", "cniVersion": "1.0.0", "plugins": [{"type": "a", "capabilities": {"cgroupPath": true}},
               {"type": "b", "capabilities": {"portMappings": true, "dns": true}}]})");
  open();
  PodConfig config;
  config.ports = {{.protocol = 0, .containerPort = 80, .hostPort = 8080}};
  auto added = add("a", config);
  ASSERT_TRUE(added) << added.error().text();
  EXPECT_TRUE(added->mapsPorts);
  EXPECT_EQ(inputOf("a.ADD")["runtimeConfig"], Json({{"cgroupPath", "/pods/a"}}));
  EXPECT_EQ(inputOf("b.ADD")["runtimeConfig"]["portMappings"][0]["hostPort"], 8080);
  // What ADD got, also when the pod is not at hand.
  open();
  EXPECT_TRUE(cni_->attachment(idOf("a")).mapsPorts);
  EXPECT_TRUE(cni_->remove(idOf("a"), pinOf("a")));
  EXPECT_EQ(inputOf("b.DEL")["runtimeConfig"], inputOf("b.ADD")["runtimeConfig"]);
}

TEST_F(CniNode, AFailingPluginIsReportedAndTheChainUndone) {
  if (!inside()) return runInside();
  chain("1.0.0", {"good", "bad", "never"});
  script("bad.ADD", R"(echo gone wrong >&2; echo '{"code": 7, "msg": "bad option", "details": "mtu"}'; exit 1)");
  open();
  auto added = add("a");
  ASSERT_FALSE(added);
  EXPECT_EQ(added.error().code(), Code::NetworkSetupFailed);
  EXPECT_EQ(added.error().text(),
            "network pods: CNI plugin \"bad\" (ADD): bad option; mtu (code 7); its standard error: gone wrong");
  EXPECT_EQ(log(),
            "ADD good /run/ns/a\nADD bad /run/ns/a\nDEL never /run/ns/a\nDEL bad /run/ns/a\nDEL good /run/ns/a\n");
  EXPECT_TRUE(namesIn("/run/results").empty());
  // What the ones before it gave: it is needed to undo what it may have begun.
  EXPECT_EQ(inputOf("bad.DEL")["prevResult"]["ips"][0]["address"], "10.9.0.2/24");

  // A code of its own, or one that asks for it, is worth another try; only one.
  script("bad.ADD", R"(echo '{"code": 999, "msg": "odd"}'; exit 1)");
  clearLog();
  ASSERT_FALSE(add("b"));
  EXPECT_EQ(split(log(), '\n').size(), 11U);
  script("bad.ADD", R"([ -e "$dir/once" ] && echo '{"ips": [{"address": "10.9.0.9/24"}]}' && exit
    touch "$dir/once"; echo '{"code": 11, "msg": "later"}'; exit 1)");
  auto second = add("c");
  ASSERT_TRUE(second) << second.error().text();
  EXPECT_TRUE(cni_->remove(idOf("c"), pinOf("c")));
}

TEST_F(CniNode, WhatPluginsPrintIsNotTrusted) {
  if (!inside()) return runInside();
  chain("1.0.0", {"odd"});
  open();
  for (const auto& [what, part] : std::vector<std::pair<std::string, std::string>>{
           {"echo hello", "its result: is not JSON"},
           {"echo '{}'", "gave the pod no address"},
           {"echo '{\"ips\": [{\"address\": 1}]}'", "\"ips[0].address\" must be a string"},
           {"head -c 1100000 /dev/zero", "printed more than 1048576 bytes"},
           {"echo '{\"code\": 1'; echo why >&2; exit 3", "ended with status 3; its standard error: why"},
           {"kill -9 $$", "ended by signal 9"},
           {"printf 'a\\033[31m\\377\\n' >&2; exit 1", "its standard error: a"},
           {"yes | head -c 5000000 >&2; echo last >&2; exit 1", "ended with status 1"}}) {
    script("odd.ADD", what);
    auto added = add("a");
    ASSERT_FALSE(added) << what;
    EXPECT_EQ(added.error().code(), Code::NetworkSetupFailed);
    EXPECT_HAS(added.error().text(), part);
    EXPECT_LT(added.error().text().size(), 3000U);
    EXPECT_TRUE(isUtf8(added.error().text()) && added.error().text().find('\033') == std::string::npos);
    dropPod("a");
  }
  EXPECT_TRUE(namesIn("/run/results").empty());
}

TEST_F(CniNode, AHangingPluginIsKilledWithItsChildren) {
  if (!inside()) return runInside();
  settings_.cniTimeout = 1;
  chain("1.0.0", {"slow"});
  script("slow.ADD", "echo still waiting >&2; sleep 1000 & setsid sleep 1001 & sleep 1002");
  open();
  auto begin = Clock::now();
  auto added = add("a");
  EXPECT_LT(Clock::now() - begin, 3s);
  ASSERT_FALSE(added);
  EXPECT_EQ(added.error().code(), Code::NetworkSetupFailed);
  EXPECT_HAS(added.error().text(), "did not end in time");
  EXPECT_HAS(added.error().text(), "still waiting");
  EXPECT_FALSE(pathExists(node_.cgroupRoot + "/cni/pod-" + idOf("a")));
  auto processes = run({.argv = {"/bin/ps", "ax"}}, 5s);
  EXPECT_EQ(processes->out.find("sleep 100"), std::string::npos) << processes->out;
  EXPECT_TRUE(namesIn("/run/results").empty());

  // A DEL that hangs is an error; the pod is tried again later.
  script("slow.ADD", R"(echo '{"ips": [{"address": "10.9.0.9/24"}]}'; sleep 1000 &)");
  script("slow.DEL", "sleep 1000");
  ASSERT_TRUE(add("b"));
  ASSERT_FALSE(cni_->remove(idOf("b"), pinOf("b")));
  EXPECT_EQ(namesIn("/run/results").size(), 1U);
  ASSERT_EQ(::unlink("/run/slow.DEL"), 0);
  EXPECT_TRUE(cni_->collectGarbage({}));
  EXPECT_TRUE(namesIn("/run/results").empty());
}

TEST_F(CniNode, WhatAKilledDaemonLeftIsUndone) {
  if (!inside()) return runInside();
  chain("1.0.0", {"first", "second"});
  for (const char* stage : {"cni.add.begun", "cni.add.plugin:1", "cni.add.cached:1", "cni.add.plugin:2",
                            "cni.add.cached:2", "cni.del", "cni.del.plugin:1", "cni.del.plugin:2", "cni.del.done"}) {
    clearLog();
    makePod("a");
    // Each daemon is a process of its own; this one has no threads.
    int killed = inChild([&] {
      ::setenv("USERPOD_KILL_AT", stage, 1);
      open();
      (void)cni_->add(idOf("a"), {}, "/pods/a", pinOf("a"));
      (void)cni_->remove(idOf("a"), pinOf("a"));
    });
    ASSERT_TRUE(WIFSIGNALED(killed) && WTERMSIG(killed) == SIGKILL) << stage;
    EXPECT_EQ(namesIn("/run/results").size(), 1U) << stage;
    clearLog();
    EXPECT_EQ(inChild([&] {
                open();
                if (!cni_->collectGarbage({})) ::_exit(1);
              }),
              0);
    EXPECT_EQ(log(), "DEL second /run/ns/a\nDEL first /run/ns/a\n") << stage;
    EXPECT_TRUE(namesIn("/run/results").empty());
    dropPod("a");
  }
}

TEST_F(CniNode, PluginsThatAKilledDaemonLeftAreKilledFirst) {
  if (!inside()) return runInside();
  chain("1.0.0", {"slow"});
  script("slow.ADD", "touch \"$dir/running\"; sleep 1000");
  makePod("a");
  pid_t child = ::fork();
  if (child == 0) {
    open();
    (void)cni_->add(idOf("a"), {}, "/pods/a", pinOf("a"));
    ::_exit(0);
  }
  EXPECT_TRUE(soon([] { return pathExists("/run/running"); }, 10s));
  ::kill(child, SIGKILL);
  ASSERT_EQ(::waitpid(child, nullptr, 0), child);
  auto processes = [] { return run({.argv = {"/bin/ps", "ax"}}, 5s)->out; };
  EXPECT_HAS(processes(), "sleep 1000");
  open();
  EXPECT_EQ(processes().find("sleep 1000"), std::string::npos);
  EXPECT_TRUE(cni_->collectGarbage({}));
  EXPECT_HAS(log(), "DEL slow /run/ns/a\n");
}

TEST_F(CniNode, DelWithoutANamespace) {
  if (!inside()) return runInside();
  chain("1.0.0", {"only"});
  open();
  for (const char* name : {"a", "b", "c"}) ASSERT_TRUE(add(name));
  for (const char* name : {"a", "b"}) dropPod(name);
  ASSERT_TRUE(unmountDetached(pinOf("c")));  // the file is there, and no namespace
  clearLog();
  EXPECT_TRUE(cni_->remove(idOf("a"), pinOf("a")));
  open();
  EXPECT_TRUE(cni_->collectGarbage({idOf("b")}));
  EXPECT_EQ(log(), "DEL only none\nDEL only none\n");
  EXPECT_EQ(cni_->attachment(idOf("b")).addresses, std::vector<std::string>{"10.9.0.2"});
  // The configuration of ADD, whatever it is by now.
  (void)std::filesystem::remove_all("/run/etc/net.d");
  EXPECT_TRUE(problemHas("no CNI configuration"));
  EXPECT_TRUE(cni_->remove(idOf("b"), ""));
  EXPECT_TRUE(namesIn("/run/results").empty());
}

TEST_F(CniNode, StopEndsWhatRuns) {
  if (!inside()) return runInside();
  settings_.cniTimeout = 60;
  chain("1.0.0", {"only"});
  open();
  ASSERT_TRUE(add("a"));
  open();
  script("only.DEL", "touch \"$dir/running\"; sleep 1000");
  std::thread cleaner([&] { EXPECT_FALSE(cni_->collectGarbage({})); });
  EXPECT_TRUE(soon([] { return pathExists("/run/running"); }, 5s));
  auto begin = Clock::now();
  cni_->stop();
  cleaner.join();
  EXPECT_LT(Clock::now() - begin, 2s);
  EXPECT_EQ(namesIn("/run/results").size(), 1U);
  auto refused = add("b");
  ASSERT_FALSE(refused);
  EXPECT_HAS(refused.error().text(), "the daemon is ending");
}

TEST_F(CniNode, CheckNamesWhatThePluginFound) {
  if (!inside()) return runInside();
  chain("0.4.0", {"first", "second"});
  open();
  ASSERT_TRUE(add("a"));
  script("second.CHECK", R"(echo '{"code": 100, "msg": "the rule is gone"}'; exit 1)");
  auto checked = cni_->check(idOf("a"));
  ASSERT_FALSE(checked);
  EXPECT_EQ(checked.error().code(), Code::NetworkSetupFailed);
  EXPECT_HAS(checked.error().text(), "network pods: CNI plugin \"second\" (CHECK): the rule is gone");
  EXPECT_TRUE(cni_->remove(idOf("a"), pinOf("a")));
  chain("0.4.0", {"first", "second"}, R"({"disableCheck": true})");
  open();
  ASSERT_TRUE(add("b"));
  EXPECT_TRUE(cni_->check(idOf("b")));
}

TEST_F(CniNode, GarbageIsCollectedByPluginsThatKnowIt) {
  if (!inside()) return runInside();
  chain("1.1.0", {"first", "second"});
  open();
  ASSERT_TRUE(add("a"));
  ASSERT_TRUE(add("b"));
  clearLog();
  EXPECT_TRUE(cni_->collectGarbage({}));
  EXPECT_EQ(log(), "GC first none\nGC second none\n") << "this daemon's pods are none";
  clearLog();
  open();
  EXPECT_TRUE(cni_->collectGarbage({idOf("b")}));
  EXPECT_HAS(log(), "DEL second /run/ns/a\nDEL first /run/ns/a\nGC first none\nGC second none\n");
  Json valid = {{{"containerID", idOf("b")}, {"ifname", "eth0"}}};
  EXPECT_EQ(inputOf("second.GC")["cni.dev/valid-attachments"], valid);
  script("first.GC", R"(echo '{"code": 100, "msg": "cannot"}'; exit 1)");
  auto collected = cni_->collectGarbage({idOf("b")});
  ASSERT_FALSE(collected);
  EXPECT_HAS(collected.error().text(), "CNI plugin \"first\" (GC): cannot (code 100)");
  chain("1.1.0", {"first", "second"}, R"({"disableGC": true})");
  ASSERT_TRUE(cni_->remove(idOf("b"), pinOf("b")));
  open();
  EXPECT_TRUE(cni_->collectGarbage({}));
}

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
  configure(R"({"name": "first", "type": "p"})", "10.conf");
  configure("{", "20.conf");
  settings_.cniNetwork = "second";
  open();
  EXPECT_HAS(cni_->problem(), "no CNI network \"second\"");
  EXPECT_HAS(cni_->problem(), "there are: first, /run/etc/net.d/20.conf (broken)");
  configure(R"({"name": "second", "type": "p"})", "30.conf");
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

// Debian's own, with their state in the test's directory.
TEST_F(CniNode, DebiansPluginsCheckWhatTheyMade) {
  if (!inside()) return runInside();
  if (!pathExists("/usr/lib/cni/bridge")) GTEST_SKIP() << "no CNI plugins: apt install containernetworking-plugins";
  configure(R"({"name": "pods", "cniVersion": "0.4.0", "plugins": [
    {"type": "bridge", "bridge": "cnitest0", "isGateway": true, "ipam": {"type": "host-local", "dataDir": "/run/leases",
     "ranges": [[{"subnet": "10.77.0.0/24"}], [{"subnet": "fd77::/64"}]]}},
    {"type": "tuning", "dataDir": "/run/tuning", "sysctl": {"net.core.somaxconn": "517"}}]})");
  open();
  auto added = add("a");
  ASSERT_TRUE(added) << added.error().text();
  EXPECT_EQ(added->addresses, (std::vector<std::string>{"10.77.0.2", "fd77::2"}));
  EXPECT_TRUE(cni_->check(idOf("a")));
  inNamespace(pinOf("a"), [] {
    EXPECT_EQ(run({.argv = {"/sbin/ip", "address", "del", "10.77.0.2/24", "dev", "eth0"}}, 5s)->status.code, 0);
  });
  auto checked = cni_->check(idOf("a"));
  ASSERT_FALSE(checked);
  EXPECT_HAS(checked.error().text(), "CNI plugin \"bridge\" (CHECK)");
  EXPECT_HAS(checked.error().text(), "10.77.0.2");
  // Of a pod without a namespace, after a restart: the lease is given back.
  ASSERT_TRUE(add("b"));
  dropPod("b");
  open();
  EXPECT_TRUE(pathExists("/run/leases/pods/10.77.0.3"));
  EXPECT_TRUE(cni_->collectGarbage({idOf("a")}));
  EXPECT_FALSE(pathExists("/run/leases/pods/10.77.0.3"));
  EXPECT_TRUE(pathExists("/run/leases/pods/10.77.0.2"));
  EXPECT_TRUE(cni_->remove(idOf("a"), pinOf("a")));
  EXPECT_FALSE(pathExists("/run/leases/pods/10.77.0.2"));
  EXPECT_FALSE(pathExists("/run/leases/pods/fd77::2"));
}

// The trap of Debian's bridge 1.1.1: an ADD that failed after the bridge was made makes the next one fail too.
TEST_F(CniNode, AnAddAfterOneThatFailedWorks) {
  if (!inside()) return runInside();
  if (!pathExists("/usr/lib/cni/bridge")) GTEST_SKIP() << "no CNI plugins: apt install containernetworking-plugins";
  auto bridge = [](const std::string& leases) {
    return R"({"name": "pods", "cniVersion": "1.0.0", "plugins": [{"type": "bridge", "bridge": "cnitest0",
      "isGateway": true, "ipam": {"type": "host-local", "dataDir": ")" +
           leases + R"(", "subnet": "10.77.0.0/24"}}]})";
  };
  ASSERT_TRUE(writeFile("/run/file", ""));
  configure(bridge("/run/file"));
  open();
  auto failed = add("a");
  ASSERT_FALSE(failed);
  EXPECT_HAS(failed.error().text(), "/run/file");
  configure(bridge("/run/leases"));
  open();
  auto added = add("b");
  ASSERT_TRUE(added) << added.error().text();
  EXPECT_EQ(added->addresses.size(), 1U);
}

// The budget of a pod beyond the plugins' own time: 5 ms.
TEST_F(CniNode, CostsLittleBesideThePlugins) {
  if (!inside()) return runInside();
  constexpr int kPods = 100;
  std::vector<std::string> types = {"first", "second", "third"};
  chain("1.0.0", types);
  script("first.ADD", R"(echo '{"cniVersion": "1.0.0", "ips": [{"address": "10.9.0.7/24"}]}')");
  open();
  for (int i = 0; i < kPods; ++i) makePod("p" + std::to_string(i));
  std::vector<double> added, removed, bare;
  auto measure = [](std::vector<double>& times, const std::function<void()>& function) {
    auto begin = Clock::now();
    function();
    times.push_back(std::chrono::duration<double, std::milli>(Clock::now() - begin).count());
  };
  for (int i = 0; i < kPods; ++i) {
    std::string name = "p" + std::to_string(i);
    measure(added, [&] { ASSERT_TRUE(cni_->add(idOf(name), {}, "/pods/a", pinOf(name))); });
    measure(removed, [&] { ASSERT_TRUE(cni_->remove(idOf(name), pinOf(name))); });
    measure(bare, [&] {
      for (const auto& type : types) {
        auto input = openFile("/run/" + type + ".ADD.json", O_RDONLY);
        auto ended = run({.argv = {"/run/bin/" + type},
                          .environment = {"CNI_COMMAND=ADD", "PATH=/usr/bin:/bin"},
                          .descriptors = {{input->get(), 0}},
                          .networkNamespace = node_.networkNamespace.get()},
                         5s);
        ASSERT_TRUE(ended);
      }
    });
  }
  for (auto* times : {&added, &removed, &bare}) std::sort(times->begin(), times->end());
  printf("[   TIME   ] ADD of 3 plugins: p50 %.2f ms, p95 %.2f ms; DEL %.2f, %.2f; the plugins alone %.2f, %.2f\n",
         added[50], added[95], removed[50], removed[95], bare[50], bare[95]);
  EXPECT_LT(added[50] - bare[50], 5);
  EXPECT_LT(removed[50] - bare[50], 5);
}

}  // namespace
}  // namespace userpod::network

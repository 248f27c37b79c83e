// ADD, CHECK, DEL and GC by plugins, what goes wrong with them, and a daemon that is killed meanwhile.
#include "daemon/network/backend.hpp"
#include "daemon/network/cni/plugins.hpp"
#include "tests/unit/cni_bed.hpp"

namespace userpod::network {
namespace {

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

TEST_F(CniNode, NoPluginRunsWithoutACgroupOfItsOwn) {
  if (!inside()) return runInside();
  fakePlugin("only");
  Settings settings;
  settings.cniTimeout = 5;
  cni::Plugins plugins({"/run/bin"}, settings, node_);
  auto cgroup = cni::PluginCgroup::make(node_, "x");
  ASSERT_TRUE(cgroup) << cgroup.error().text();
  cni::Invocation invocation{.command = "DEL", .plugin = "only", .input = Json::object()};
  EXPECT_TRUE(plugins.run(invocation, *cgroup, 5s));
  clearLog();
  // A stranger in its place.
  ASSERT_TRUE(node_.removeCgroup("/cni/x"));
  ASSERT_TRUE(writeFile("/run/x", ""));
  node_.cgroupRoot = "/run/x";
  EXPECT_FALSE(cgroup->renew());
  auto refused = plugins.run(invocation, *cgroup, 5s);
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code(), Code::NetworkSetupFailed);
  EXPECT_HAS(refused.error().text(), "CNI plugin \"only\" (DEL): not run");
  EXPECT_EQ(log(), "");
  node_.cgroupRoot = std::string(::getenv(kInsideVariable)) + "/cni-test";
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
  EXPECT_EQ(refused.error().code(), Code::Canceled);
  EXPECT_HAS(refused.error().text(), "the daemon is ending");
  EXPECT_EQ(namesIn("/run/results").size(), 1U) << "nothing is begun";
  auto removed = cni_->remove(idOf("a"), pinOf("a"));
  ASSERT_FALSE(removed);
  EXPECT_EQ(removed.error().code(), Code::Canceled);
}

// As the core does at a start: leave() of what is not living is called before it is ready.
TEST_F(CniNode, AStartWaitsForNoPluginLong) {
  if (!inside()) return runInside();
  ASSERT_TRUE(mountFilesystem("tmpfs", "tmpfs", "/var/lib", 0));
  settings_.cniTimeout = 60;
  chain("1.0.0", {"only"});
  std::unique_ptr<Backend> backend;
  auto start = [&](const Earlier& earlier) {
    backend.reset();
    auto opened = openCni(paths_, settings_, node_, earlier);
    ASSERT_TRUE(opened) << opened.error().text();
    backend = std::move(*opened);
  };
  auto results = [] { return namesIn("/var/lib/cni/results").size(); };
  PodRecord living{.id = makePod("a")}, dead{.id = makePod("b")}, other{.id = makePod("c")};
  start({});
  backend->recovered();
  for (const auto& [pod, name] : {std::pair(living, "a"), std::pair(dead, "b"), std::pair(other, "c")})
    ASSERT_TRUE(backend->join(pod, pinOf(name)));
  ASSERT_EQ(results(), 3U);

  script("only.DEL", "touch \"$dir/running\"; sleep 1000");
  start({{living}, {}});
  auto begin = Clock::now();
  EXPECT_TRUE(backend->leave(dead, pinOf("b")));
  EXPECT_TRUE(backend->leave(other, pinOf("c")));
  EXPECT_LT(Clock::now() - begin, 15s);
  EXPECT_TRUE(pathExists("/run/running"));
  // An end waits for none either.
  backend->recovered();
  begin = Clock::now();
  backend->stop();
  EXPECT_EQ(backend->leave(living, pinOf("a")).error().code(), Code::Canceled);
  backend.reset();
  EXPECT_LT(Clock::now() - begin, 3s);
  EXPECT_EQ(results(), 3U);

  // Those that work have undone it when leave() returns; and the living pod is looked at.
  ASSERT_EQ(::unlink("/run/only.DEL"), 0);
  clearLog();
  start({{living}, {}});
  EXPECT_TRUE(backend->leave(dead, pinOf("b")));
  EXPECT_HAS(log(), "DEL only /run/ns/b\n");
  EXPECT_TRUE(soon([] { return log().find("CHECK only /run/ns/a\n") != std::string::npos; }, 5s)) << log();
  EXPECT_EQ(results(), 1U);
  EXPECT_TRUE(backend->leave(living, pinOf("a")));
  EXPECT_EQ(results(), 0U);
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
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
  // Milliseconds beyond the plugins' own; under sanitizers the figure says nothing.
  EXPECT_LT(added[50] - bare[50], 5);
  EXPECT_LT(removed[50] - bare[50], 5);
#endif
}

}  // namespace
}  // namespace userpod::network

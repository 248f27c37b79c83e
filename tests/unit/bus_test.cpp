// The bus front end on a private dbus-daemon: see bus_bed.hpp.
#include "tests/unit/bus_bed.hpp"

namespace userpod::bus {
namespace {

TEST_F(BusOnADaemon, ShowsTheSnapshotAndFollowsChanges) {
  start();
  auto tree = objects();
  EXPECT_TRUE(tree.contains(kCriPodPath)) << tree.dump();
  EXPECT_EQ(property(kCriPodPath, "Pod", "Labels")["bytes"], "\xEF\xBF\xBD");
  EXPECT_EQ(property(kRoot, "Manager", "PodCount"), 2);
  core_.putContainer(core_.containerRecord(ContainerRecord::State::Creating));
  core_.putContainer(core_.containerRecord(ContainerRecord::State::Created));
  core_.putContainer(core_.containerRecord(ContainerRecord::State::Running));
  waitFor([&] { return property(kContainerPath, "Container", "State") == "running"; });
  EXPECT_EQ(property(kContainerPath, "Container", "Pid"), 1042);
  EXPECT_EQ(property(kDesktopPodPath, "Pod", "Containers"), json({kContainerPath}));
  EXPECT_EQ(property("/org/userpod1/images/" + std::string(64, '1'), "Image", "UsedBy"), json({kContainerPath}));
  core_.change(Change::Kind::Container, kContainer, [](Snapshot& next) { next.containers.clear(); });
  waitFor([&] { return !objects().contains(kContainerPath); });
  EXPECT_EQ(property(kDesktopPodPath, "Pod", "Containers"), json::array());
}

TEST_F(BusOnADaemon, FindsAndListsWithFilters) {
  start();
  EXPECT_NE(call(kRoot, "Manager", {"GetPod", "sa{sv}", "aaa", "0"}).find(kCriPodPath), std::string::npos);
  EXPECT_NE(call(kRoot, "Manager", {"GetPod", "sa{sv}", "dd", "0"}).find("no pod"), std::string::npos);
  EXPECT_NE(call(kRoot, "Manager", {"GetImage", "sa{sv}", "localhost/test:1", "0"}).find("/images/11"),
            std::string::npos);
  auto rows = json::parse(
      call(kRoot, "Manager",
           {"ListPods", "a{sv}", "2", "labels", "a{ss}", "1", "app", "db", "fields", "as", "1", "Name"}))["data"][0];
  ASSERT_EQ(rows.size(), 1U);
  EXPECT_EQ(rows[0][0], kDesktopPodPath);
  EXPECT_EQ(rows[0][1].size(), 1U);
  EXPECT_EQ(rows[0][1]["Name"]["data"], "pod-b");
  auto wrong = call(kRoot, "Manager", {"ListPods", "a{sv}", "1", "labels", "s", "app"});
  EXPECT_NE(wrong.find("option \"labels\" has D-Bus type s"), std::string::npos) << wrong;
  EXPECT_NE(call(kRoot, "Manager", {"Diagnose", "a{sv}", "0"}).find("usermod"), std::string::npos);
  auto shown = json::parse(call(kRoot, "Manager", {"GetNetwork", "a{sv}", "0"}))["data"][0];
  EXPECT_EQ(shown["uplink-reason"]["data"], "slirp4netns\xEF\xBF\xBD");
  EXPECT_EQ(shown["ports"]["data"][0]["pod"]["data"], kDesktopPodPath);
  EXPECT_EQ(shown["links"]["data"][kCriPodPath], network::linkName(kCriPod));
}

TEST_F(BusOnADaemon, WhatAKubeletManagesNeedsForce) {
  start();
  EXPECT_NE(call(kCriPodPath, "Pod", {"Stop", "a{sv}", "0"}).find("force-managed"), std::string::npos);
  EXPECT_EQ(property(kCriPodPath, "Pod", "State"), "ready");
  auto forced = json::parse(call(kCriPodPath, "Pod", {"Stop", "a{sv}", "1", "force-managed", "b", "true"}));
  EXPECT_EQ(forced["data"][1], "/org/userpod1/jobs/1");
  EXPECT_NE(call("/org/userpod1/jobs/1", "Job", {"Wait", "a{sv}", "0"}).find("a{sv}"), std::string::npos);
  EXPECT_EQ(property(kCriPodPath, "Pod", "State"), "notready");
  EXPECT_EQ(property("/org/userpod1/jobs/1", "Job", "Objects"), json({kCriPodPath}));
  EXPECT_TRUE(json::accept(call(kDesktopPodPath, "Pod", {"Remove", "a{sv}", "0"})));
  call("/org/userpod1/jobs/2", "Job", {"Wait", "a{sv}", "0"});
  EXPECT_FALSE(objects().contains(kDesktopPodPath));
}

TEST_F(BusOnADaemon, ASandboxedCallerMayOnlyLook) {
  start();
  core_.callerSandboxed = true;
  EXPECT_NE(call(kDesktopPodPath, "Pod", {"Stop", "a{sv}", "0"}).find("sandbox"), std::string::npos);
  EXPECT_GT(core_.lastCaller, 0);
  EXPECT_NE(call(kRoot, "Manager", {"PullImage", "sa{sv}", "name", "0"}).find("sandbox"), std::string::npos);
  EXPECT_NE(call(kRoot, "Manager", {"ListPods", "a{sv}", "0"}).find("pod-b"), std::string::npos);
}

TEST_F(BusOnADaemon, AFailedJobTellsItsError) {
  start();
  core_.putContainer(core_.containerRecord(ContainerRecord::State::Running));
  waitFor([&] { return objects().contains(kContainerPath); });
  auto tooEarly = call(kContainerPath, "Container", {"Remove", "a{sv}", "0"});
  EXPECT_NE(tooEarly.find("\"force\""), std::string::npos) << tooEarly;
  EXPECT_TRUE(json::accept(call(kContainerPath, "Container", {"Stop", "a{sv}", "1", "timeout-usec", "t", "1500001"})));
  EXPECT_EQ(core_.lastGrace, 1501);
  EXPECT_NE(call("/org/userpod1/jobs/1", "Job", {"Wait", "a{sv}", "0"}).find("no\xEF\xBF\xBD"), std::string::npos);
  EXPECT_EQ(property("/org/userpod1/jobs/1", "Job", "ErrorName"), "org.userpod1.Error.RuntimeFailed");
  EXPECT_EQ(property("/org/userpod1/jobs/1", "Job", "State"), "failed");
}

TEST_F(BusOnADaemon, PruneHasItsOptionsAndItsResult) {
  start();
  auto wait = [&](const char* number) {
    return call("/org/userpod1/jobs/" + std::string(number), "Job", {"Wait", "a{sv}", "0"});
  };
  EXPECT_NE(call(kRoot, "Manager", {"PruneImages", "a{sv}", "0"}).find("/org/userpod1/jobs/1"), std::string::npos);
  auto plain = json::parse(wait("1"))["data"][0];
  EXPECT_EQ(plain["images"]["data"], json({"dangling", "wet"}));
  EXPECT_EQ(plain["bytes"]["data"], 7);
  call(kRoot, "Manager", {"PruneImages", "a{sv}", "2", "all", "b", "true", "dry-run", "b", "true"});
  EXPECT_EQ(json::parse(wait("2"))["data"][0]["images"]["data"], json({"all", "dry"}));
  EXPECT_NE(call(kRoot, "Manager", {"PruneImages", "a{sv}", "1", "all", "s", "yes"}).find("option \"all\""),
            std::string::npos);
  core_.callerSandboxed = true;
  EXPECT_NE(call(kRoot, "Manager", {"PruneImages", "a{sv}", "0"}).find("sandbox"), std::string::npos);
}

TEST_F(BusOnADaemon, ATokenStandsForNameAndPassword) {
  start();
  EXPECT_NE(call(kRoot, "Manager", {"PullImage", "sa{sv}", "x", "1", "identity-token", "s", "hunter2"}).find("/jobs/1"),
            std::string::npos);
  auto both =
      call(kRoot, "Manager", {"PullImage", "sa{sv}", "x", "2", "identity-token", "s", "hunter2", "username", "s", "u"});
  EXPECT_NE(both.find("identity-token"), std::string::npos) << both;
  EXPECT_EQ(both.find("hunter2"), std::string::npos) << both;
}

// Images that come, change and go among others that stay.
TEST_F(BusOnADaemon, ImagesFollowTheList) {
  start();
  auto record = [](char digit, const char* tag) {
    auto image = std::make_shared<ImageRecord>();
    image->id = "sha256:" + std::string(64, digit);
    image->repoTags = {tag};
    return image;
  };
  auto publish = [&](core::ImageList list) {
    core_.change(Change::Kind::Image, "", [list = std::move(list)](Snapshot& next) {
      next.images = std::make_shared<const core::ImageList>(list);
    });
  };
  auto tags = [&] {
    std::string all;
    auto tree = objects();
    for (auto& [path, interfaces] : tree.items())
      if (interfaces.contains("org.userpod1.Image"))
        all += interfaces["org.userpod1.Image"]["RepoTags"]["data"][0].get<std::string>() + " ";
    return all;
  };
  auto two = record('2', "two"), four = record('4', "four");
  publish({record('0', "zero"), two, record('3', "three"), four});
  waitFor([&] { return tags() == "zero two three four "; });
  publish({record('1', "one"), two, record('3', "drei"), record('5', "five")});
  waitFor([&] { return tags() == "one two drei five "; });
  EXPECT_EQ(property(kRoot, "Manager", "ImageCount"), 4);
  publish({});
  waitFor([&] { return tags().empty(); });
}

TEST_F(BusOnADaemon, EveryCallGetsAnAnswer) {
  start();
  core_.putContainer(core_.containerRecord(ContainerRecord::State::Running));
  waitFor([&] { return objects().contains(kContainerPath); });
  auto forgotten = call(kContainerPath, "Container", {"Kill", "isa{sv}", "15", "main", "0"});
  EXPECT_NE(forgotten.find("before it could answer"), std::string::npos) << forgotten;
  EXPECT_NE(call(kContainerPath, "Container", {"Kill", "isa{sv}", "99", "main", "0"}).find("no signal"),
            std::string::npos);
  auto waiting =
      std::async(std::launch::async, [&] { return call(kContainerPath, "Container", {"Start", "a{sv}", "0"}); });
  std::this_thread::sleep_for(500ms);
  bus_.reset();
  EXPECT_NE(waiting.get().find("before it could answer"), std::string::npos);
  if (core_.held) core_.held({});  // the core answers late: nobody is there, nothing happens
}

// libsystemd looks into the object's vtable when a reply leaves: it must leave first.
TEST_F(BusOnADaemon, ACallIsAnsweredBeforeItsObjectLeaves) {
  start();
  core_.putContainer(core_.containerRecord(ContainerRecord::State::Created));
  waitFor([&] { return objects().contains(kContainerPath); });
  auto waiting =
      std::async(std::launch::async, [&] { return call(kContainerPath, "Container", {"Start", "a{sv}", "0"}); });
  std::this_thread::sleep_for(500ms);
  core_.change(Change::Kind::Container, kContainer, [](Snapshot& next) { next.containers.clear(); });
  EXPECT_NE(waiting.get().find("has gone"), std::string::npos);
  if (core_.held) core_.held({});
  EXPECT_FALSE(objects().contains(kContainerPath));
}

TEST_F(BusOnADaemon, ChangesAreAnnouncedBeforeSignalsAndReplies) {
  start();
  core_.putContainer(core_.containerRecord(ContainerRecord::State::Running));
  waitFor([&] { return objects().contains(kContainerPath); });
  auto out = makePipe();
  ASSERT_TRUE(out);
  auto monitor = spawn({.argv = {busctl_, "--address=" + address_, "--json=short", "monitor", "org.userpod1"},
                        .environment = environment(),
                        .descriptors = {{out->write.get(), 1}}});
  ASSERT_TRUE(monitor);
  out->write.reset();
  std::this_thread::sleep_for(700ms);
  auto exited = core_.containerRecord(ContainerRecord::State::Exited);
  exited.finishedAt = 4'000'000;
  exited.exitCode = 3;
  exited.reason = "Error";
  core_.putContainer(exited);
  waitFor([&] { return property(kContainerPath, "Container", "State") == "exited"; });
  EXPECT_TRUE(json::accept(call(kDesktopPodPath, "Pod", {"Stop", "a{sv}", "0"})));
  std::this_thread::sleep_for(300ms);
  (void)monitor->kill(SIGTERM);
  (void)monitor->wait();
  auto text = readAll(out->read.get(), 1 << 20);
  ASSERT_TRUE(text);
  std::vector<std::string> seen;
  for (const auto& line : split(*text, '\n')) {
    auto message = json::parse(line, nullptr, false);
    if (!message.is_object()) continue;
    if (message["type"] == "signal") seen.push_back(message.value("member", ""));
    if (message["type"] == "method_return" && message["payload"].is_object() &&
        message["payload"].value("type", "") == "uo")
      seen.emplace_back("reply");
  }
  auto at = [&](const std::string& name) { return std::find(seen.begin(), seen.end(), name) - seen.begin(); };
  auto all = json(seen).dump();
  EXPECT_LT(at("PropertiesChanged"), at("Exited")) << all;
  EXPECT_LT(at("Exited"), at("Event")) << all;
  EXPECT_LT(at("InterfacesAdded"), at("JobNew")) << all;
  EXPECT_LT(at("JobNew"), at("reply")) << all;
  EXPECT_NE(at("reply"), static_cast<long>(seen.size())) << all;
}

TEST_F(BusOnADaemon, ComesAndGoesWithTheBus) {
  startBus();  // there is none yet
  waitFor([&] { return core_.reported() == "SessionBus no NoSessionBus"; });
  startDaemon();
  waitFor([&] { return present(); });
  waitFor([&] { return core_.reported() == "SessionBus yes "; });
  ASSERT_TRUE(daemon_.kill(SIGKILL));
  (void)daemon_.wait();
  core_.putContainer(core_.containerRecord(ContainerRecord::State::Running));
  waitFor([&] { return core_.reported() == "SessionBus no NoSessionBus"; });
  (void)removeTree(directory_ + "/bus");
  startDaemon();
  waitFor([&] { return present(); });
  EXPECT_TRUE(objects().contains(kContainerPath));
}

TEST_F(BusOnADaemon, ABusThatTakesConnectionsAndIsSilentHoldsNothingUp) {
  UniqueFd silent(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_un address{.sun_family = AF_UNIX};
  (directory_ + "/bus").copy(address.sun_path, sizeof address.sun_path - 1);
  ASSERT_EQ(::bind(silent.get(), reinterpret_cast<sockaddr*>(&address), sizeof address), 0);
  ASSERT_EQ(::listen(silent.get(), 5), 0);
  startBus();
  UniqueFd connection(::accept(silent.get(), nullptr, nullptr));
  char byte = 0;
  ASSERT_EQ(::read(connection.get(), &byte, 1), 1) << "it waits for an answer to this";
  std::promise<void> answered;
  bus_->ping([&] { answered.set_value(); });
  ASSERT_EQ(answered.get_future().wait_for(10s), std::future_status::ready);
  auto begin = std::chrono::steady_clock::now();
  bus_.reset();
  EXPECT_LT(std::chrono::steady_clock::now() - begin, 10s);
}

TEST_F(BusOnADaemon, ABusThatIsAskedForTheNameAndIsSilentIsKnownToHoldItUp) {
  start();
  TestCore second;
  auto other = Bus::start(second);
  ASSERT_TRUE(other);
  waitFor([&] { return second.reported() == "SessionBus no NameTaken"; });
  ASSERT_EQ(::kill(daemon_.pid(), SIGSTOP), 0);
  waitFor([&] { return (*other)->asking(); });
  std::promise<void> answered;
  auto answer = answered.get_future();
  (*other)->ping([&] { answered.set_value(); });
  EXPECT_EQ(answer.wait_for(500ms), std::future_status::timeout);
  EXPECT_TRUE((*other)->asking());
  ASSERT_EQ(::kill(daemon_.pid(), SIGCONT), 0);
  ASSERT_EQ(answer.wait_for(10s), std::future_status::ready);
  waitFor([&] { return !(*other)->asking(); });
  other->reset();
}

TEST_F(BusOnADaemon, WaitsForTheNameAndTakesIt) {
  start();
  auto second = std::make_unique<TestCore>();
  auto other = Bus::start(*second);
  ASSERT_TRUE(other);
  waitFor([&] { return second->reported() == "SessionBus no NameTaken"; });
  bus_.reset();
  waitFor([&] { return present(); });
  waitFor([&] { return second->reported() == "SessionBus yes "; });
  EXPECT_EQ(property(kRoot, "Manager", "Version"), "test");
  other->reset();
}

TEST_F(BusOnADaemon, TheLogLevelCanBeSet) {
  start();
  const std::vector<std::string> where = {"org.userpod1", "/org/freedesktop/LogControl1", "org.freedesktop.LogControl1",
                                          "LogLevel"};
  auto set = [&](const std::string& level) {
    return busctl({"set-property", where[0], where[1], where[2], where[3], "s", level});
  };
  EXPECT_EQ(set("err"), "");
  EXPECT_NE(busctl({"get-property", where[0], where[1], where[2], where[3]}).find("err"), std::string::npos);
  EXPECT_NE(set("loud").find("no log level"), std::string::npos);
  EXPECT_EQ(set("info"), "");
}

}  // namespace
}  // namespace userpod::bus

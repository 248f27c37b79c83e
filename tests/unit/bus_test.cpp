// The bus front end on a private dbus-daemon, asked by busctl: a small core of the test's own stands behind it, so that
// each change and each answer can be made at will.
#include "dbus/bus.hpp"

#include <gtest/gtest.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/un.h>

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <future>
#include <mutex>
#include <nlohmann/json.hpp>

#include "daemon/sys/child.hpp"
#include "daemon/sys/executor.hpp"
#include "daemon/sys/util.hpp"
#include "tests/unit/no_streams.hpp"

namespace userpod::bus {
namespace {

using namespace std::chrono_literals;
using core::Change;
using core::JobRecord;
using core::Snapshot;
using nlohmann::json;

const std::string kCriPod(64, 'a');
const std::string kDesktopPod(64, 'b');
const std::string kContainer(64, 'c');
const std::string kImage = "sha256:" + std::string(64, '1');

// Publishes as the real one does: from one thread, each change with its snapshot.
class TestCore final : public tests::NoStreams {
 public:
  TestCore() : strand_(*EventLoop::start("test-core")) {
    Snapshot first;
    for (const auto& id : {kCriPod, kDesktopPod}) {
      auto pod = std::make_shared<PodRecord>();
      pod->id = id;
      pod->config.name = "pod-" + id.substr(0, 1);
      pod->config.labels = {{"bytes", "\xff"}, {"app", id == kCriPod ? "web" : "db"}};
      pod->origin = id == kCriPod ? Origin::Cri : Origin::Desktop;
      pod->state = PodRecord::State::Ready;
      pod->createdAt = 1'000'000;
      first.pods.push_back(pod);
    }
    auto image = std::make_shared<ImageRecord>();
    image->id = kImage;
    image->repoTags = {"localhost/test:1"};
    image->config = "{}";
    first.images = std::make_shared<const core::ImageList>(core::ImageList{image});
    first.conditions = {{"RuntimeReady", true, "", ""}};
    snapshot_.store(std::make_shared<const Snapshot>(first));
    info_.version = "test";
    info_.nodeCgroup = "/node";
  }
  ~TestCore() override { strand_->shutdown(); }

  void change(Change::Kind kind, const std::string& id, const std::function<void(Snapshot&)>& edit) {
    strand_->post([this, kind, id, edit] {
      auto next = std::make_shared<Snapshot>(*snapshot_.load());
      edit(*next);
      snapshot_.store(next);
      for (const auto& listener : listeners_) listener({kind, id, false, next});
    });
  }
  void putContainer(ContainerRecord record) {
    change(Change::Kind::Container, record.id,
           [record](Snapshot& next) { next.containers = {std::make_shared<const ContainerRecord>(record)}; });
  }
  ContainerRecord containerRecord(ContainerRecord::State state) {
    ContainerRecord record;
    record.id = kContainer;
    record.podId = kDesktopPod;
    record.origin = Origin::Desktop;
    record.imageId = kImage;
    record.state = state;
    record.createdAt = 2'000'000;
    if (state == ContainerRecord::State::Running) record.pid = 42;
    if (state != ContainerRecord::State::Created) record.startedAt = 3'000'000;
    return record;
  }

  std::shared_ptr<const Snapshot> snapshot() const override { return snapshot_.load(); }
  void subscribe(std::function<void(const Change&)> listener) override {
    strand_->post([this, listener = std::move(listener)] { listeners_.push_back(listener); });
  }
  const core::Info& info() const override { return info_; }
  const Paths& paths() const override { return paths_; }
  std::shared_ptr<const Settings> settings() const override { return settings_.current(); }
  void reload(core::Callback<core::Reloaded> done) override { done(core::Reloaded{}); }
  bool hasHandler(const std::string&) const override { return true; }
  bool recursiveReadOnly(const std::string&) const override { return true; }
  Result<pid_t> hostPid(pid_t nodePid) override { return nodePid + 1000; }
  Result<bool> sandboxed(pid_t hostPid) override {
    lastCaller = hostPid;
    return callerSandboxed.load();
  }
  void diagnose(std::function<void(std::vector<Check>)> done) override {
    done({{"subordinate-ids", Check::Severity::Error, "none", {"usermod --add-subuids"}}});
  }
  void networkView(std::function<void(network::NetworkView)> done) override {
    network::NetworkView view;
    view.stack = "bridge";
    view.uplink = "down: slirp4netns\xff";
    view.ports = {{.podId = kDesktopPod, .mapping = {0, 80, 8080, ""}, .listenPort = 8080, .host = {"0.0.0.0"}}};
    done(std::move(view));
  }
  void report(core::Condition condition) override {
    std::lock_guard lock(reportedMutex_);
    reported_ = std::move(condition);
  }
  // "SessionBus yes ", "SessionBus no NameTaken"
  std::string reported() const {
    std::lock_guard lock(reportedMutex_);
    return reported_.type + (reported_.ok ? " yes " : " no ") + reported_.reason;
  }
  void ping(std::function<void()> answer) override { strand_->post(std::move(answer)); }

  void runPod(PodConfig, std::string, Origin, core::Callback<std::string>) override {}
  void stopPod(const std::string& key, core::DoneCallback done) override {
    change(Change::Kind::Pod, key, [key](Snapshot& next) {
      for (auto& pod : next.pods) {
        if (pod->id != key) continue;
        auto stopped = std::make_shared<PodRecord>(*pod);
        stopped->state = PodRecord::State::NotReady;
        pod = stopped;
      }
    });
    strand_->post([done = std::move(done)] { done({}); });
  }
  void removePod(const std::string& key, core::DoneCallback done) override {
    change(Change::Kind::Pod, key,
           [key](Snapshot& next) { std::erase_if(next.pods, [&](const auto& pod) { return pod->id == key; }); });
    strand_->post([done = std::move(done)] { done({}); });
  }
  void createContainer(const std::string&, ContainerConfig, Origin, core::Callback<std::string>) override {}
  void pauseContainer(const std::string&, core::DoneCallback done) override { held = std::move(done); }
  void resumeContainer(const std::string&, core::DoneCallback done) override { held = std::move(done); }
  void startContainer(const std::string&, core::DoneCallback done) override { held = std::move(done); }
  void stopContainer(const std::string&, std::chrono::milliseconds grace, core::DoneCallback done) override {
    lastGrace = grace.count();
    done(Error(Code::RuntimeFailed, "no\xff"));
  }
  void removeContainer(const std::string&, core::DoneCallback done) override { done({}); }
  void killContainer(const std::string&, int, bool, core::DoneCallback) override {}  // forgets its callback
  void updatePod(const std::string&, std::optional<Resources>, std::optional<Resources>, core::DoneCallback) override {}
  void updateContainer(const std::string&, Resources, core::DoneCallback) override {}
  void reopenContainerLog(const std::string&, core::DoneCallback) override {}
  void execSync(const std::string&, std::vector<std::string>, std::chrono::milliseconds,
                core::Callback<oci::ExecResult>) override {}
  network::PodNamespaces podNamespaces(const PodRecord&) const override { return {}; }
  std::string containerSpec(const std::string&) const override { return ""; }
  void pullImage(images::PullRequest, core::Callback<std::string>) override {}
  void imageDocuments(const std::string& id, core::Callback<ImageRecord> done) override {
    auto image = findImage(id);
    done(image ? Result<ImageRecord>(*image) : Error(Code::NoSuchImage, "none"));
  }
  std::shared_ptr<const ImageRecord> findImage(const std::string& reference) const override {
    auto now = snapshot_.load();
    for (const auto& image : *now->images)
      if (image->id == reference || image->repoTags.at(0) == reference) return image;
    return nullptr;
  }
  void removeImage(const std::string&, core::DoneCallback done) override { done({}); }
  void pruneImages(core::PruneOptions, core::Callback<core::PruneResult>) override {}
  void filesystemUsage(
      std::function<void(Result<std::pair<storage::FilesystemUsage, storage::FilesystemUsage>>)>) override {}
  std::uint32_t pullImageJob(images::PullRequest request, const std::string& sender) override {
    return job("pull-image", request.reference, sender, [](core::DoneCallback done) { done({}); });
  }
  std::uint32_t pruneImagesJob(core::PruneOptions options, const std::string& sender) override {
    JobRecord record;
    record.id = nextJob_++;
    record.type = "prune-images";
    record.sender = sender;
    record.state = JobRecord::State::Done;
    record.startedAt = record.finishedAt = nowNanos();
    record.pruned = core::PruneResult{{options.all ? "all" : "dangling", options.dryRun ? "dry" : "wet"}, 7};
    putJob(record);
    return record.id;
  }
  std::uint32_t job(const std::string& type, const std::string& object, const std::string& sender,
                    std::function<void(core::DoneCallback)> operation) override {
    auto id = nextJob_++;
    JobRecord record;
    record.id = id;
    record.type = type;
    record.object = object;
    record.sender = sender;
    record.state = JobRecord::State::Running;
    record.startedAt = nowNanos();
    putJob(record);
    operation([this, record](Status status) mutable {
      record.state = status ? JobRecord::State::Done : JobRecord::State::Failed;
      if (!status) record.error = std::move(status).error();
      record.finishedAt = nowNanos();
      putJob(record);
    });
    return id;
  }
  void putJob(const JobRecord& record) {
    change(Change::Kind::Job, std::to_string(record.id), [record](Snapshot& next) {
      std::erase_if(next.jobs, [&](const auto& job) { return job->id == record.id; });
      next.jobs.push_back(std::make_shared<const JobRecord>(record));
    });
  }
  Status cancelJob(std::uint32_t) override { return Error(Code::InvalidState, "job is over"); }
  void waitJob(std::uint32_t id, std::function<void(Result<std::shared_ptr<const JobRecord>>)> done) override {
    strand_->post([this, id, done = std::move(done)] {
      auto now = snapshot_.load();
      for (const auto& job : now->jobs)
        if (job->id == id && job->finishedAt != 0) return done(job);
      waitJob(id, done);
    });
  }

  core::DoneCallback held;
  std::atomic<bool> callerSandboxed{false};
  std::atomic<pid_t> lastCaller{0};
  std::atomic<std::int64_t> lastGrace{-1};

 private:
  std::unique_ptr<EventLoop> strand_;
  std::atomic<std::shared_ptr<const Snapshot>> snapshot_;
  std::vector<std::function<void(const Change&)>> listeners_;
  core::Info info_;
  Paths paths_{"/run/user/1/userpod", "/data", "/config", "/run/userpod"};
  LiveSettings settings_;
  std::atomic<std::uint32_t> nextJob_{1};
  mutable std::mutex reportedMutex_;
  core::Condition reported_;  // guarded by reportedMutex_
};

std::vector<std::string> environment() {
  std::vector<std::string> list;
  for (char** entry = environ; *entry != nullptr; ++entry) list.emplace_back(*entry);
  return list;
}

class BusOnADaemon : public ::testing::Test {
 protected:
  void SetUp() override {
    auto daemon = findProgram("dbus-daemon");
    auto client = findProgram("busctl");
    if (!daemon || !client) GTEST_SKIP() << "no dbus-daemon or busctl here";
    program_ = *daemon;
    busctl_ = *client;
    std::string name = ::testing::TempDir() + "/userpod-bus-XXXXXX";
    directory_ = ::mkdtemp(name.data());
    address_ = "unix:path=" + directory_ + "/bus";
    ::setenv("DBUS_SESSION_BUS_ADDRESS", address_.c_str(), 1);
  }
  void TearDown() override {
    bus_.reset();
    daemon_ = Child();
    if (!directory_.empty()) (void)removeTree(directory_);
  }

  void startDaemon() {
    auto child = spawn({.argv = {program_, "--session", "--nofork", "--nopidfile", "--address=" + address_},
                        .environment = environment()});
    ASSERT_TRUE(child) << child.error().text();
    daemon_ = std::move(*child);
  }
  void startBus() {
    auto started = Bus::start(core_);
    ASSERT_TRUE(started);
    bus_ = std::move(*started);
  }
  void start() {
    startDaemon();
    waitFor([&] { return pathExists(directory_ + "/bus"); });
    startBus();
    waitFor([&] { return present(); });
  }
  void waitFor(const std::function<bool()>& condition) {
    for (int i = 0; i < 400; ++i) {
      if (condition()) return;
      std::this_thread::sleep_for(25ms);
    }
    FAIL() << "waited for 10 s";
  }
  // Standard output, or standard error when it failed.
  std::string busctl(std::vector<std::string> arguments) {
    arguments.insert(arguments.begin(), {busctl_, "--address=" + address_, "--json=short", "--timeout=10"});
    auto output = run({.argv = std::move(arguments), .environment = environment()}, 15s, 1 << 20);
    if (!output) return output.error().text();
    return output->status.code == 0 ? output->out : output->err;
  }
  std::string call(const std::string& path, const std::string& interface, std::vector<std::string> arguments) {
    arguments.insert(arguments.begin(), {"--", "call", "org.userpod1", path, "org.userpod1." + interface});
    return busctl(std::move(arguments));
  }
  json property(const std::string& path, const std::string& interface, const std::string& name) {
    auto text = busctl({"get-property", "org.userpod1", path, "org.userpod1." + interface, name});
    auto value = json::parse(text, nullptr, false);
    return value.is_object() ? value["data"] : json(text);
  }
  bool present() {
    return busctl({"call", "org.freedesktop.DBus", "/", "org.freedesktop.DBus", "NameHasOwner", "s", "org.userpod1"})
               .find("true") != std::string::npos;
  }
  json objects() {
    auto text =
        busctl({"call", "org.userpod1", "/org/userpod1", "org.freedesktop.DBus.ObjectManager", "GetManagedObjects"});
    auto value = json::parse(text, nullptr, false);
    return value.is_object() ? value["data"][0] : json(text);
  }

  std::string program_, busctl_, directory_, address_;
  Child daemon_;
  TestCore core_;
  std::unique_ptr<Bus> bus_;
};

const std::string kCriPodPath = "/org/userpod1/pods/" + kCriPod;
const std::string kDesktopPodPath = "/org/userpod1/pods/" + kDesktopPod;
const std::string kContainerPath = "/org/userpod1/containers/" + kContainer;
const std::string kRoot = "/org/userpod1";

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

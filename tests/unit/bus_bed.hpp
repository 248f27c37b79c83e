// What tests of the bus front end stand on: a private dbus-daemon, asked by busctl, and a small core of the tests' own
// behind the front end, so that each change and each answer can be made at will.
#pragma once

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
#include "dbus/bus.hpp"
#include "tests/unit/no_streams.hpp"

namespace userpod::bus {

using namespace std::chrono_literals;
using core::Change;
using core::JobRecord;
using core::Snapshot;
using nlohmann::json;

inline const std::string kCriPod(64, 'a');
inline const std::string kDesktopPod(64, 'b');
inline const std::string kContainer(64, 'c');
inline const std::string kImage = "sha256:" + std::string(64, '1');

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

inline const std::string kCriPodPath = "/org/userpod1/pods/" + kCriPod;
inline const std::string kDesktopPodPath = "/org/userpod1/pods/" + kDesktopPod;
inline const std::string kContainerPath = "/org/userpod1/containers/" + kContainer;
inline const std::string kRoot = "/org/userpod1";

}  // namespace userpod::bus

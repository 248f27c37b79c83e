// The double of the core that the tests of the CRI front end talk to.
#pragma once

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <functional>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <vector>

#include "daemon/core/core.hpp"
#include "tests/unit/no_streams.hpp"

namespace userpod::tests {

inline constexpr std::size_t kMebibyte = 1024 * 1024;

// Keeps records in memory and the callbacks of what it was told, for the test to answer or to drop.
class FakeCore final : public tests::NoStreams {
 public:
  FakeCore() {
    conditions.push_back({"RuntimeReady", true, "", ""});
    conditions.push_back({"NetworkReady", false, "NetworkPluginNotReady", "no bridge"});
    paths_.data = "/data";
    info_.containerRoot = "/data/containers";
    set({}, {});
  }

  void set(std::vector<std::shared_ptr<const PodRecord>> pods,
           std::vector<std::shared_ptr<const ContainerRecord>> containers) {
    auto next = std::make_shared<core::Snapshot>();
    next->pods = std::move(pods);
    next->containers = std::move(containers);
    next->conditions = conditions;
    snapshot_.store(next);
  }
  void setImages(core::ImageList images) {
    auto next = std::make_shared<core::Snapshot>();
    next->images = std::make_shared<const core::ImageList>(std::move(images));
    next->conditions = conditions;
    snapshot_.store(next);
  }

  std::shared_ptr<const core::Snapshot> snapshot() const override { return snapshot_.load(); }
  void subscribe(std::function<void(const core::Change&)>) override {}
  void subscribeEvents(std::function<void(const core::Event&)> listener) override { tell = std::move(listener); }
  void containerFigures(std::vector<std::shared_ptr<const ContainerRecord>> containers, stats::Detail,
                        std::function<void(std::vector<stats::ContainerFigures>)> done) override {
    ++reads;
    largestRead = std::max(largestRead.load(), containers.size());
    if (dropReads) return;
    std::vector<stats::ContainerFigures> figures;
    for (auto& container : containers) figures.push_back(containerFiguresOf(container));
    done(std::move(figures));
  }
  void podFigures(std::vector<std::shared_ptr<const PodRecord>> pods, stats::Detail detail,
                  std::function<void(std::vector<stats::PodFigures>)> done) override {
    podDetail = detail;
    std::vector<stats::PodFigures> figures;
    for (auto& pod : pods) figures.push_back(podFiguresOf(pod));
    done(std::move(figures));
  }
  const core::Info& info() const override { return info_; }
  const Paths& paths() const override { return paths_; }
  std::shared_ptr<const Settings> settings() const override { return settings_.current(); }
  void reload(core::Callback<core::Reloaded> done) override { done(core::Reloaded{}); }
  bool hasHandler(const std::string& handler) const override { return handler.empty() || handler == "crun"; }
  bool recursiveReadOnly(const std::string& handler) const override { return handler == "crun"; }
  Result<pid_t> hostPid(pid_t nodePid) override { return nodePid + 1000; }
  Result<bool> sandboxed(pid_t) override { return false; }
  void report(core::Condition) override {}
  void ping(std::function<void()> done) override { done(); }
  void diagnose(std::function<void(std::vector<Check>)> done) override {
    done({{"subordinate-ids", Check::Severity::Warning, "few", {"usermod"}}});
  }
  void networkView(std::function<void(network::NetworkView)>) override {}
  void runPod(PodConfig config, std::string, Origin, core::Callback<std::string> done) override {
    lastPod = config;
    hold(std::move(done));
  }
  void stopPod(const std::string& key, core::DoneCallback done) override { record("stopPod " + key, done); }
  void removePod(const std::string& key, core::DoneCallback done) override { record("removePod " + key, done); }
  void createContainer(const std::string& podKey, ContainerConfig, Origin, core::Callback<std::string> done) override {
    told.push_back("create in " + podKey);
    done(std::string(64, 'd'));
  }
  void pauseContainer(const std::string&, core::DoneCallback done) override { done({}); }
  void resumeContainer(const std::string&, core::DoneCallback done) override { done({}); }
  void startContainer(const std::string& key, core::DoneCallback done) override { record("start " + key, done); }
  void stopContainer(const std::string& key, std::chrono::milliseconds grace, core::DoneCallback done) override {
    record("stop " + key + " " + std::to_string(grace.count()), done);
  }
  void removeContainer(const std::string& key, core::DoneCallback done) override { record("remove " + key, done); }
  void killContainer(const std::string&, int, bool, core::DoneCallback done) override { done({}); }
  void updatePod(const std::string& key, std::optional<Resources> overhead, std::optional<Resources> resources,
                 core::DoneCallback done) override {
    auto memory = [](const std::optional<Resources>& limits) {
      return limits ? std::to_string(limits->memoryLimit) : "none";
    };
    record("updatePod " + key + " " + memory(overhead) + " " + memory(resources), done);
  }
  void updateContainer(const std::string& key, Resources wanted, core::DoneCallback done) override {
    record("update " + key + " " + std::to_string(wanted.memoryLimit), done);
  }
  void reopenContainerLog(const std::string& key, core::DoneCallback done) override { record("reopen " + key, done); }
  void execSync(const std::string&, std::vector<std::string> command, std::chrono::milliseconds,
                core::Callback<oci::ExecResult> done) override {
    if (command[0] == "late") return done(Error(Code::Timeout, "killed after 1 s"));
    done(oci::ExecResult{3, std::string(16 * kMebibyte, 'o'), "err"});
  }
  network::PodNamespaces podNamespaces(const PodRecord&) const override { return {"/ns/net", "/ns/ipc", "/ns/uts"}; }
  std::string containerSpec(const std::string&) const override { return R"({"ociVersion":"1.0.2"})"; }
  void pullImage(images::PullRequest request, core::Callback<std::string> done) override {
    std::lock_guard lock(mutex);
    pull = std::move(request);
    held = std::move(done);
    arrived.notify_all();
  }
  void imageDocuments(const std::string&, core::Callback<ImageRecord> done) override {
    done(Error(Code::NoSuchImage, "none"));
  }
  std::shared_ptr<const ImageRecord> findImage(const std::string&) const override { return nullptr; }
  void removeImage(const std::string&, core::DoneCallback done) override { done(Error(Code::NoSuchImage, "none")); }
  void filesystemUsage(
      std::function<void(Result<std::pair<storage::FilesystemUsage, storage::FilesystemUsage>>)> done) override {
    done(std::pair(storage::FilesystemUsage{"/data", 1, 2, 3}, storage::FilesystemUsage{"/data", 1, 4, 5}));
  }
  std::uint32_t pullImageJob(images::PullRequest, const std::string&) override { return 0; }
  void pruneImages(core::PruneOptions, core::Callback<core::PruneResult>) override {}
  std::uint32_t pruneImagesJob(core::PruneOptions, const std::string&) override { return 0; }
  std::uint32_t job(const std::string&, const std::string&, const std::string&,
                    std::function<void(core::DoneCallback)>) override {
    return 0;
  }
  Status cancelJob(std::uint32_t) override { return {}; }
  void waitJob(std::uint32_t, std::function<void(Result<std::shared_ptr<const core::JobRecord>>)>) override {}

  core::Callback<std::string> takeHeld() {
    std::unique_lock lock(mutex);
    arrived.wait(lock, [this] { return held != nullptr; });
    return std::exchange(held, nullptr);
  }

  std::vector<core::Condition> conditions;
  PodConfig lastPod;
  std::vector<std::string> told;
  std::mutex mutex;
  std::condition_variable arrived;
  core::Callback<std::string> held;
  images::PullRequest pull;
  std::function<void(const core::Event&)> tell;  // the subscriber of events
  // Of figures of containers: how often and for how many at most they were asked for; not answered.
  std::atomic<std::size_t> reads = 0, largestRead = 0;
  std::atomic<bool> dropReads = false;
  std::atomic<stats::Detail> podDetail = stats::Detail::Usual;  // as asked for
  // What the core answers with; a test may say otherwise.
  std::function<stats::ContainerFigures(std::shared_ptr<const ContainerRecord>)> containerFiguresOf =
      [](auto container) { return stats::ContainerFigures{std::move(container), {}, {}, {}}; };
  std::function<stats::PodFigures(std::shared_ptr<const PodRecord>)> podFiguresOf = [](auto pod) {
    return stats::PodFigures{std::move(pod), {}, 0, {}, {}};
  };

 private:
  void hold(core::Callback<std::string> done) {
    std::lock_guard lock(mutex);
    held = std::move(done);
    arrived.notify_all();
  }
  void record(std::string what, const core::DoneCallback& done) {
    told.push_back(std::move(what));
    done({});
  }

  core::Info info_;
  Paths paths_;
  LiveSettings settings_;
  std::atomic<std::shared_ptr<const core::Snapshot>> snapshot_;
};

}  // namespace userpod::tests

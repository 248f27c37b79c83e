// The core's inside: entities, their locks, and one member function file per concern. Everything without a remark runs
// on the core strand; functions that say "worker" block and touch no state.
#pragma once

#include <atomic>
#include <deque>
#include <map>
#include <mutex>
#include <set>
#include <unordered_map>

#include "daemon/core/check.hpp"
#include "daemon/core/core.hpp"
#include "daemon/core/parking.hpp"
#include "daemon/core/pulls.hpp"
#include "daemon/network/network.hpp"
#include "daemon/stats/stats.hpp"
#include "daemon/store/live_store.hpp"
#include "daemon/sys/child.hpp"
#include "daemon/sys/executor.hpp"
#include "daemon/sys/rate.hpp"
#include "daemon/sys/watches.hpp"
#include "userns/host_address.hpp"
#include "userns/node.hpp"

namespace userpod::core {

// Operations on one object follow each other: each runs whole before the next begins.
class OperationQueue {
 public:
  // Runs the operation now, or when those before it have released.
  void acquire(std::function<void()> operation);
  void release();
  bool busy() const { return busy_; }

 private:
  bool busy_ = false;
  std::deque<std::function<void()>> waiting_;
};

struct PodEntity {
  std::shared_ptr<const PodRecord> record;
  OperationQueue operations;
  std::set<std::string> containers;
  std::vector<Callback<std::string>> creating;  // duplicate requests while the first is under way
  bool stopping = false;                        // no new containers
  bool removed = false;
  std::string hostname;
  network::PodNamespaces namespaces;
  UniqueFd pause;  // pidfd of the process that keeps the shared PID namespace, watched; none where each has its own
};

// What CRI-O gives containers at StopPodSandbox when the caller has not stopped them before.
inline constexpr std::chrono::milliseconds kPodStopGrace{10000};

// Why a container ended whose root file system had lost the process that served it: ContainerRecord::reason.
inline constexpr const char* kRootLost = "RootFilesystemLost";

// A stop under way: the signal is out, everybody waits for the exit or the deadline.
struct StopInProgress {
  std::chrono::steady_clock::time_point deadline;
  EventLoop::TimerId timer = 0;
  bool killed = false;
  std::vector<DoneCallback> waiters;
};

struct ContainerEntity {
  std::shared_ptr<const ContainerRecord> record;
  OperationQueue operations;
  std::vector<Callback<std::string>> creating;
  std::optional<StopInProgress> stop;
  UniqueFd process;           // pidfd of the container's first process while it lives
  UniqueFd monitor;           // pidfd of conmon, watched
  UniqueFd server;            // pidfd of what serves the root file system, watched; none where the kernel does
  bool rootLost = false;      // it ended before the container
  Watches::Id oomWatch = -1;  // of its memory.events; none without the memory controller
  bool exitSeen = false;
  bool removed = false;
};

// ContainerRecord::reason when nobody saw the exit.
inline constexpr const char* kMonitorLost = "MonitorLost";
inline constexpr const char* kNodeEnded = "NodeEnded";

using PodPointer = std::shared_ptr<PodEntity>;
using ContainerPointer = std::shared_ptr<ContainerEntity>;

class CoreImpl final : public Core {
 public:
  explicit CoreImpl(Parts parts) : parts_(std::move(parts)) {}
  ~CoreImpl() override;
  Status start();

  std::shared_ptr<const Snapshot> snapshot() const override {
    std::lock_guard lock(snapshotMutex_);
    return snapshot_;
  }
  void subscribe(std::function<void(const Change&)> listener) override;
  void subscribeEvents(std::function<void(const Event&)> listener) override;
  void leaveEnds() override;
  const Info& info() const override { return info_; }
  const Paths& paths() const override { return parts_.paths; }
  std::shared_ptr<const Settings> settings() const override { return parts_.settings.current(); }
  void reload(Callback<Reloaded> done) override;
  bool hasHandler(const std::string& handler) const override { return runtime_->hasHandler(handler); }
  bool recursiveReadOnly(const std::string& handler) const override { return runtime_->recursiveReadOnly(handler); }
  Result<pid_t> hostPid(pid_t nodePid) override { return parts_.broker->hostPid(nodePid); }
  Result<bool> sandboxed(pid_t hostPid) override { return parts_.broker->sandboxed(hostPid); }
  void diagnose(std::function<void(std::vector<Check>)> done) override;
  void networkView(std::function<void(network::NetworkView)> done) override;
  void report(Condition condition) override;
  void ping(std::function<void()> answer) override { post(std::move(answer)); }

  void runPod(PodConfig config, std::string handler, Origin origin, Callback<std::string> done) override;
  void stopPod(const std::string& key, DoneCallback done) override;
  void removePod(const std::string& key, DoneCallback done) override;
  void updatePod(const std::string& key, std::optional<Resources> overhead, std::optional<Resources> resources,
                 DoneCallback done) override;
  void createContainer(const std::string& podKey, ContainerConfig config, Origin origin,
                       Callback<std::string> done) override;
  void startContainer(const std::string& key, DoneCallback done) override;
  void stopContainer(const std::string& key, std::chrono::milliseconds grace, DoneCallback done) override;
  void removeContainer(const std::string& key, DoneCallback done) override;
  void pauseContainer(const std::string& key, DoneCallback done) override;
  void resumeContainer(const std::string& key, DoneCallback done) override;
  void killContainer(const std::string& key, int signal, bool whole, DoneCallback done) override;
  void updateContainer(const std::string& key, Resources wanted, DoneCallback done) override;
  void reopenContainerLog(const std::string& key, DoneCallback done) override;
  void execSync(const std::string& key, std::vector<std::string> command, std::chrono::milliseconds timeout,
                Callback<oci::ExecResult> done) override;
  void openExec(const std::string& key, ExecRequest request, Callback<oci::ExecStreams> started,
                Callback<std::int32_t> ended) override;
  void attach(const std::string& key, bool tty, Callback<oci::Attachment> done) override;
  void detach(const std::string& containerId, UniqueFd socket, bool input) override;
  void resizeTerminal(const std::string& key, oci::TerminalSize size, DoneCallback done) override;
  void podSockets(const std::string& key, Callback<network::TcpSockets> done) override;
  Result<network::LoopbackListeners> loopbackListeners() override;
  std::string containerSpec(const std::string& id) const override;
  network::PodNamespaces podNamespaces(const PodRecord& pod) const override { return network_->namespacesOf(pod); }

  void pullImage(images::PullRequest request, Callback<std::string> done) override;
  std::shared_ptr<const ImageRecord> findImage(const std::string& reference) const override {
    return images_->find(reference);
  }
  void imageDocuments(const std::string& id, Callback<ImageRecord> done) override;
  void removeImage(const std::string& reference, DoneCallback done) override;
  void pruneImages(PruneOptions options, Callback<PruneResult> done) override;
  void filesystemUsage(
      std::function<void(Result<std::pair<storage::FilesystemUsage, storage::FilesystemUsage>>)> done) override;

  void containerFigures(std::vector<std::shared_ptr<const ContainerRecord>> containers, stats::Detail detail,
                        std::function<void(std::vector<stats::ContainerFigures>)> done) override;
  void podFigures(std::vector<std::shared_ptr<const PodRecord>> pods, stats::Detail detail,
                  std::function<void(std::vector<stats::PodFigures>)> done) override;
  std::uint32_t pullImageJob(images::PullRequest request, const std::string& sender) override;
  std::uint32_t pruneImagesJob(PruneOptions options, const std::string& sender) override;
  std::uint32_t checkJob(CheckOptions options, const std::string& sender) override;
  std::uint32_t job(const std::string& type, const std::string& object, const std::string& sender,
                    std::function<void(DoneCallback)> operation) override;
  Status cancelJob(std::uint32_t id) override;
  void waitJob(std::uint32_t id, std::function<void(Result<std::shared_ptr<const JobRecord>>)> done) override;

 private:
  // core.cpp
  void post(EventLoop::Task task) { strand_->post(std::move(task)); }
  // Runs `work` on a worker, then `then` with its value on the strand.
  template <typename T>
  void background(std::function<T()> work, std::function<void(T)> then) {
    background(*workers_, std::move(work), std::move(then));
  }
  template <typename T>
  void background(Workers& workers, std::function<T()> work, std::function<void(T)> then) {
    workers.submit([this, work = std::move(work), then = std::move(then)]() mutable {
      auto value = std::make_shared<T>(work());
      strand_->post([then = std::move(then), value] { then(std::move(*value)); });
    });
  }
  Status openParts();
  Status startWatches();
  void publish(Change::Kind kind, const std::string& id, bool removed = false);
  void refreshConditions();
  network::Earlier earlierNetwork(const store::LiveStore::Content& content) const;
  Status watchHostAddresses();
  void pollNetwork();
  std::vector<Condition> conditions() const;
  Condition containersCondition(const char* type, const char* reason, const char* what) const;
  Condition nodeCondition() const;
  template <typename Map>
  static typename Map::mapped_type findByKey(const Map& map, const std::string& key);

  // The first record of an object: without it nothing is made, as the next daemon would not know of it.
  template <typename Record>
  Status commitNew(const Record& record, Status (store::LiveStore::*put)(const Record&)) {
    auto written = (store_.get()->*put)(record);
    noteStore(written);
    return written;
  }
  // Commit to the store, then publish. A store that fails is logged and named by a condition: what runs goes on, and
  // the store follows when it can.
  void commit(const PodPointer& pod, PodRecord record);
  void commit(const ContainerPointer& container, ContainerRecord record);
  void followLayer(const ContainerRecord& record);
  void forget(const PodPointer& pod);
  void forget(const ContainerPointer& container);
  void noteStore(const Status& status);
  store::LiveStore::Content allRecords() const;
  void catchUpStore();

  // pods.cpp
  Workers& workersFor(const PodRecord& record);  // that make and undo its network
  struct PodMade {
    network::PodNetwork network;
    oci::PauseProcess pause;
    std::string hostname;
  };
  Result<PodMade> makePod(const PodRecord& record);  // worker
  void finishRunPod(const PodPointer& pod, Result<PodMade> made);
  void endNamespaces(const PodRecord& record);  // worker
  void undoPod(const PodRecord& record);        // worker
  void stopContainersOf(const PodPointer& pod, std::chrono::milliseconds grace, std::function<void()> then);
  void stopPodEntity(const PodPointer& pod, std::chrono::milliseconds grace, DoneCallback done);
  void removeStoppedPod(const PodPointer& pod, DoneCallback done);

  // pause.cpp
  void watchPause(const PodPointer& pod, UniqueFd pause);
  void unwatchPause(const PodPointer& pod);
  void adoptPause(const PodPointer& pod);
  void pauseEnded(const PodPointer& pod);

  // containers.cpp
  struct ContainerMade {
    ContainerRecord record;
    oci::CreatedProcess process;
    UniqueFd pidfd;
    UniqueFd monitorPidfd;
    UniqueFd serverPidfd;
  };
  struct CreatePlan {  // what the worker needs, copied from state
    PodRecord pod;
    ContainerRecord container;
    std::shared_ptr<const ImageRecord> image;
    network::PodNamespaces namespaces;
    std::string hostname;
    pid_t targetPid = 0;  // whose PID namespace is shared, with namespace mode TARGET
  };
  Result<pid_t> targetOf(const std::string& podId, const ContainerConfig& config) const;
  Result<ContainerMade> makeContainer(const CreatePlan& plan);       // worker
  Result<ContainerMade> makeContainerParts(const CreatePlan& plan);  // worker
  Status resolveVolumes(ContainerConfig& config) const;
  Result<std::vector<std::string>> mountVolumes(ContainerRecord& record);         // worker
  void undoContainer(const ContainerRecord& record, const std::string& handler);  // worker
  void finishCreate(const ContainerPointer& container, Result<ContainerMade> made);
  void finishStart(const ContainerPointer& container, Status started, DoneCallback done);
  // What of it is not needed any more is let go; then the next operation has its turn. done() has the first failure.
  void releaseAfterExit(const ContainerPointer& container, DoneCallback done = {});
  std::string handlerOf(const ContainerRecord& record) const;
  void removeContainerEntity(const ContainerPointer& container, DoneCallback done);

  // stop.cpp
  void stopEntity(const ContainerPointer& container, std::chrono::milliseconds grace, DoneCallback done);
  void beginStop(const ContainerPointer& container, std::chrono::milliseconds grace);
  void armStopTimer(const ContainerPointer& container);
  void killForStop(const ContainerPointer& container);
  void watchMonitor(const ContainerPointer& container);
  void monitorEnded(const ContainerPointer& container);
  void watchServer(const ContainerPointer& container, Result<UniqueFd> server);
  void serverEnded(const ContainerPointer& container);
  void killProcesses(const ContainerPointer& container);
  void exitFileSeen(const std::string& id);
  void handleExit(const ContainerPointer& container);
  void commitExit(const ContainerPointer& container, const oci::ExitRecord& exit);
  void commitLostExit(const ContainerPointer& container);
  void commitEnd(const ContainerPointer& container, ContainerRecord record);

  // streams.cpp
  Result<ContainerPointer> executable(const std::string& key) const;

  // update.cpp
  Status limitPod(const PodRecord& record);                                 // worker
  Status applyPodUpdate(const PodRecord& before, const PodConfig& wanted);  // worker
  void withLiving(const std::string& key, DoneCallback done,
                  std::function<void(const ContainerPointer&, DoneCallback)> operation);

  // freezer.cpp
  void setPaused(const std::string& key, bool paused, DoneCallback done);
  void thawForStop(const ContainerPointer& container);
  bool isPaused(const ContainerRecord& record) const;

  // oom.cpp
  void watchOom(const ContainerPointer& container);
  void unwatchOom(const ContainerPointer& container);
  void countOom(const ContainerPointer& container);

  // recovery.cpp: before the strand serves anybody
  Status recover();
  void recoverPod(const PodRecord& record);
  void recoverContainer(const ContainerRecord& record);
  void adopt(const ContainerPointer& container);
  void removeLeftovers();
  void removeUnknownCgroups();

  // events.cpp
  void emit(Event::Kind kind, const std::string& id, Origin origin, const PodPointer& pod);
  void emitStep(PodRecord::State before, const PodPointer& pod);
  void emitStep(ContainerRecord::State before, const ContainerPointer& container);
  void emitEnd(const PodPointer& pod);
  void emitEnd(const ContainerPointer& container);

  // check.cpp
  struct Checking;
  Known known() const;
  void lookOnce(const std::shared_ptr<Checking>& checking);
  void lookAgain(const std::shared_ptr<Checking>& checking);
  void lookDeeply(const std::shared_ptr<Checking>& checking);
  using ImagesByLayer = std::map<std::string, std::vector<std::string>>;
  static std::vector<std::string> imagesIn(const ImagesByLayer& byLayer, const Finding& finding);
  void judge(const std::shared_ptr<Checking>& checking, const ImagesByLayer& byLayer);
  void mendNext(const std::shared_ptr<Checking>& checking);
  // check_look.cpp: worker
  Seen look(const Known& known, const CheckOptions& options);
  void lookAtContainers(const Known& known, Seen& seen) const;
  void lookAtPods(const Known& known, Seen& seen) const;
  void lookAtPaths(Seen& seen) const;
  void lookAtMounts(Seen& seen) const;
  void lookAtDatabases(const CheckOptions& options, Seen& seen) const;
  void lookAtParts(const Known& known, Seen& seen);
  // check_mend.cpp
  void mend(const Finding& finding, DoneCallback done);
  Status mendThing(const Finding& finding);        // worker
  Status mendRuntimeState(const std::string& id);  // worker
  void mendImage(const Finding& finding, DoneCallback done);
  void removeImagesOf(const Finding& finding, const std::vector<std::string>& images, DoneCallback done);
  void mendPod(const Finding& finding, DoneCallback done);
  void mendContainer(const Finding& finding, DoneCallback done);
  void mendEnded(const ContainerPointer& container, const Finding& finding, DoneCallback done);  // its queue is held
  Status mendLiveStore(bool damaged);

  // jobs.cpp
  struct JobEntity {
    std::shared_ptr<const JobRecord> record;
    std::stop_source stop;
    bool cancelable = false;
    std::vector<std::function<void(Result<std::shared_ptr<const JobRecord>>)>> waiters;
    // Of a pull: what came last, told or not yet.
    images::PullProgress progress;
    RateWindow rate;
    EventLoop::Clock::time_point toldAt;
    EventLoop::TimerId teller = 0;
  };
  std::uint32_t addJob(JobRecord record, std::stop_source stop, bool cancelable);
  using JobResult = std::function<void(JobRecord&)>;  // puts the result in
  void finishJob(std::uint32_t id, Status status, const JobResult& result);
  std::uint32_t startPullJob(images::PullRequest request, const std::string& sender, std::stop_source stop,
                             Callback<std::string> done);
  void jobProgress(std::uint32_t id, images::PullProgress progress);
  void tellProgress(std::uint32_t id);

  // reload.cpp
  void finishReload(const Configuration& configuration, const Callback<Reloaded>& done);

  // images.cpp
  void refreshImages(const std::string& changedId, bool removed);
  // One that containers may be made of. NoSuchImage.
  Result<std::shared_ptr<const ImageRecord>> usableImage(const std::string& reference) const;
  void imagesRemoved(const std::vector<std::pair<std::string, Status>>& removed);
  std::vector<std::shared_ptr<const ImageRecord>> prunable(bool all) const;
  struct Pruned {
    PruneResult result;
    std::vector<std::pair<std::string, Status>> removed;
    std::optional<Error> failure;
  };
  Pruned prune(const std::vector<std::shared_ptr<const ImageRecord>>& chosen, bool dryRun);  // worker

  Parts parts_;
  Info info_;
  NodeInside node_;
  std::unique_ptr<store::LiveStore> store_;
  std::unique_ptr<storage::Storage> storage_;
  std::unique_ptr<images::Images> images_;
  std::unique_ptr<network::Network> network_;
  std::unique_ptr<oci::Runtime> runtime_;
  std::unique_ptr<stats::Stats> stats_;
  std::unique_ptr<Watches> watches_;  // the daemon's one inotify descriptor

  std::map<std::string, PodPointer> pods_;
  std::map<std::string, ContainerPointer> containers_;
  std::unordered_map<std::string, std::string> podNames_;        // name/namespace/uid/attempt -> id
  std::unordered_map<std::string, std::string> containerNames_;  // pod id/name_attempt -> id
  std::map<std::uint32_t, JobEntity> jobs_;
  std::shared_ptr<const ImageList> imageList_;
  // By id: images whose removal is under way, with those who wait for it. No container is made of one.
  std::map<std::string, std::vector<DoneCallback>> removing_;
  std::vector<Condition> hostConditions_;
  std::string networkProblem_;  // as last published
  std::optional<HostAddressWatch> hostWatch_;
  bool followingHost_ = false;  // a look at the host's addresses is due
  OperationQueue reloads_;
  OperationQueue checks_;
  std::map<std::string, Condition> reported_;  // by type
  std::string storeProblem_;                   // then the store is behind what is known here
  std::vector<std::function<void(const Change&)>> listeners_;
  std::vector<std::function<void(const Event&)>> eventListeners_;
  bool leavingEnds_ = false;
  std::deque<Event> lateEvents_;  // for the first of them
  std::int64_t lastEvent_ = 0;    // its time
  std::atomic<std::uint32_t> nextJob_{1};
  // Not std::atomic: libstdc++'s has a lock inside all the same, and one that the thread sanitizer cannot see.
  mutable std::mutex snapshotMutex_;
  std::shared_ptr<const Snapshot> snapshot_;  // guarded by snapshotMutex_

  // Last, so that they end first: nothing of the above is touched afterwards.
  std::unique_ptr<EventLoop> strand_;
  std::unique_ptr<Pulls> pulls_;
  std::unique_ptr<Workers> workers_;
  std::unique_ptr<Workers> networkWorkers_;  // none without CNI
  std::unique_ptr<Workers> statsWorkers_;    // for figures and settings, which never wait behind operations
  Parking parking_;
};

// Made by userpod, not given by the caller.
inline bool hasOwnCgroup(const PodRecord& pod) {
  return pod.cgroup == "/pods/" + pod.id;
}
std::string podNameKey(const PodConfig& config);
std::string containerNameKey(const std::string& podId, const ContainerConfig& config);
std::size_t figureThreads();  // that lists of figures are read by

}  // namespace userpod::core

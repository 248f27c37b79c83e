// The core: the only owner of state. Front ends call it, read its snapshots, and hear its changes.
#pragma once

#include <chrono>
#include <functional>
#include <memory>
#include <optional>
#include <stop_token>
#include <string>
#include <vector>

#include "daemon/images/images.hpp"
#include "daemon/oci/oci.hpp"
#include "daemon/stats/figures.hpp"
#include "daemon/storage/storage.hpp"
#include "daemon/store/model.hpp"
#include "daemon/sys/error.hpp"
#include "policy/configuration.hpp"
#include "policy/settings.hpp"
#include "userns/broker.hpp"
#include "userns/diagnose.hpp"

namespace userpod::core {

// A named condition of the runtime: RuntimeReady, NetworkReady, and userpod's own (CgroupDelegation...).
struct Condition {
  std::string type;
  bool ok = true;
  std::string reason;
  std::string message;

  bool operator==(const Condition&) const = default;
};

struct PruneOptions {
  bool all = false;     // every image that no container uses; else of these only those without a tag
  bool dryRun = false;  // remove nothing, say what would go
};

struct PruneResult {
  std::vector<std::string> images;  // ids
  std::int64_t bytes = 0;           // that their layers and documents have on disk, unpacked
};

struct CheckOptions {
  bool repair = false;  // mend what is safe to mend
  bool deep = false;    // count what layers hold, read every document, check indexes: seconds or minutes
};

inline constexpr const char* kPullJob = "pull-image";
inline constexpr const char* kCheckJob = "check";
// Whether a job of this type can be told to stop.
inline bool isCancelable(const std::string& type) {
  return type == kPullJob || type == kCheckJob;
}

struct JobRecord {
  enum class State { Queued, Running, Canceling, Done, Failed, Canceled };
  std::uint32_t id = 0;
  std::string type;    // "pull-image", "stop-pod", "remove-pod", "stop-container", "remove-container", "remove-image",
                       // "prune-images", "check"
  std::string object;  // id of the pod, container or image it is about; for a pull the reference
  std::string sender;  // bus name of the caller
  State state = State::Queued;
  std::int64_t startedAt = 0;  // nanoseconds since the epoch
  std::int64_t finishedAt = 0;
  images::PullProgress progress;  // of a pull, in bytes; of a check, in items
  std::uint64_t rate = 0;         // of a pull: bytes a second in the last two; 0: not known
  std::optional<Error> error;     // when Failed or Canceled
  std::string image;              // a pull's result: its id
  std::optional<PruneResult> pruned;
  std::optional<Findings> findings;  // of a check, the gravest first
};

using ImageList = std::vector<std::shared_ptr<const ImageRecord>>;

// One immutable picture of everything. Sorted by id; take it, read it, drop it. Never waits for an operation.
struct Snapshot {
  std::vector<std::shared_ptr<const PodRecord>> pods;
  std::vector<std::shared_ptr<const ContainerRecord>> containers;
  // Shared by the snapshots until it changes: there may be ten thousand images. An image that has not changed keeps its
  // record from one list to the next.
  std::shared_ptr<const ImageList> images = std::make_shared<const ImageList>();
  std::vector<std::shared_ptr<const JobRecord>> jobs;  // finished ones stay for 60 s
  std::vector<Condition> conditions;

  // By whole id or unique prefix. InvalidArgument for an empty or ambiguous key, NoSuchPod / NoSuchContainer.
  Result<std::shared_ptr<const PodRecord>> pod(const std::string& key) const;
  Result<std::shared_ptr<const ContainerRecord>> container(const std::string& key) const;
};

// Why an image is not removed: who uses it, and the mend.
Error imageBusy(const std::string& imageId, const ContainerRecord& user);

// What changed between two snapshots. Delivered in order, on the core strand, after the store has it and after the
// snapshot is published.
struct Change {
  enum class Kind { Pod, Container, Image, Job, Conditions };
  Kind kind = Kind::Pod;
  std::string id;  // of the object; decimal for a job; empty: of several images
  bool removed = false;
  std::shared_ptr<const Snapshot> snapshot;
};

// What happened to a container, or to a pod as a whole (then id is the pod's), with how things stood right after.
// A pod is Created and Started in one.
struct Event {
  enum class Kind { Created, Started, Stopped, Deleted };  // numbers of the CRI
  Kind kind = Kind::Created;
  std::string id;
  Origin origin = Origin::Cri;  // of the container, or of the pod
  std::int64_t time = 0;        // when it was seen, nanoseconds since the epoch; each has a later one than the last
  bool late = false;            // it happened while there was no daemon, whose start has found it
  std::shared_ptr<const PodRecord> pod;                            // as it is now, or was last
  std::vector<std::shared_ptr<const ContainerRecord>> containers;  // of the pod; without a deleted one
};

template <typename T>
using Callback = std::function<void(Result<T>)>;  // called once, on any of the core's threads; must not block
using DoneCallback = std::function<void(Status)>;

struct ExecRequest {
  std::vector<std::string> command;
  bool tty = false;
  bool in = false;
  bool out = false;
  bool err = false;
  oci::TerminalSize size;  // of the terminal, before the command runs
};

struct Info {
  std::string version;
  std::string ociRuntimeName, ociRuntimeVersion;
  std::string storageDriver, graphRoot, networkStack;
  std::string
      storageReason;       // why storageDriver is none of the better ones; empty when it was asked for, or is overlay
  std::string nodeCgroup;  // of the node as the host sees it, absolute below /sys/fs/cgroup: prefix of record cgroups
  std::string containerRoot;  // directory of all writable layers
};

// What has become of a reload.
struct Reloaded {
  std::vector<Changed> taken;    // in force now
  std::vector<Changed> waiting;  // for a start of the daemon or the node
  std::string text() const;      // for people, a line
};

// What streams: the part of the core that the streaming server needs. Streams are carried by the caller; closing them
// ends nothing but them.
class Streams {
 public:
  virtual ~Streams() = default;
  // In a running container; the callbacks as in oci::Runtime::openExec. InvalidState: it does not run, is paused, or
  // is being killed.
  virtual void openExec(const std::string& key, ExecRequest request, Callback<oci::ExecStreams> started,
                        Callback<std::int32_t> ended) = 0;
  // To a created or running container. InvalidState: it has ended, or its terminal is not as `tty` says.
  virtual void attach(const std::string& key, bool tty, Callback<oci::Attachment> done) = 0;
  // The end of a session: given back, not closed, as a session without stdin must not end a stdinOnce container's
  // stdin, which a close of any connection would. input: the session had stdin.
  virtual void detach(const std::string& containerId, UniqueFd socket, bool input) = 0;
  // Of the container's own terminal. InvalidState: it has none, or does not live.
  virtual void resizeTerminal(const std::string& key, oci::TerminalSize size, DoneCallback done) = 0;
  // Fresh TCP sockets in the network namespace of a ready pod, not connected. InvalidState: the pod is not ready.
  virtual void podSockets(const std::string& key, Callback<network::TcpSockets> done) = 0;
  // Sockets that listen on 127.0.0.1 at one free port, in the host's network namespace and in the node's. Blocks.
  virtual Result<network::LoopbackListeners> loopbackListeners() = 0;
};

// Every method may be called from any thread. Work goes on when the caller goes away: a retry finds it.
class Core : public Streams {
 public:
  struct Parts {
    Paths paths;
    LiveSettings settings;
    std::shared_ptr<Broker> broker;
  };
  // Opens the node, the parts and the live store, takes up what lives, undoes what is half-made. Blocks.
  static Result<std::unique_ptr<Core>> open(Parts parts);

  virtual std::shared_ptr<const Snapshot> snapshot() const = 0;
  // The listener is called on the core strand and must only hand over. Before any change it gets nothing: read
  // snapshot().
  virtual void subscribe(std::function<void(const Change&)> listener) = 0;
  // Called on the core strand, in order, and must only hand over. The first listener is told what happened before it.
  virtual void subscribeEvents(std::function<void(const Event&)> listener) = 0;
  // The daemon is about to end: from now on no end of a container is seen, so that the next daemon finds it, and tells
  // it. Returns when those seen before have been told. Not for the core's own threads.
  virtual void leaveEnds() = 0;
  virtual const Info& info() const = 0;
  virtual const Paths& paths() const = 0;
  virtual std::shared_ptr<const Settings> settings() const = 0;
  // Reads the files of userpod.toml again. What can count at once does when it answers; of a wrong file nothing does.
  // The journal has the details, and the condition "Configuration" says what is wrong until a good reload.
  // ConfigInvalid.
  virtual void reload(Callback<Reloaded> done) = 0;
  virtual bool hasHandler(const std::string& handler) const = 0;
  virtual bool recursiveReadOnly(const std::string& handler) const = 0;  // see oci::Runtime
  virtual Result<pid_t> hostPid(pid_t nodePid) = 0;
  virtual Result<bool> sandboxed(pid_t hostPid) = 0;
  virtual void diagnose(std::function<void(std::vector<Check>)> done) = 0;
  // What pods' packets pass now, for people.
  virtual void networkView(std::function<void(network::NetworkView)> done) = 0;
  // A condition that a front end or a part knows the truth of ("SessionBus"): shown with the others, by its type, until
  // reported anew. Published only when it differs.
  virtual void report(Condition condition) = 0;
  // Answered on the core strand: the watchdog asks whether it still moves.
  virtual void ping(std::function<void()> answer) = 0;

  // Pods and containers. Ids may be prefixes. Semantics of the CRI: stop and remove of unknown ids succeed.
  virtual void runPod(PodConfig config, std::string handler, Origin origin, Callback<std::string> done) = 0;
  virtual void stopPod(const std::string& key, DoneCallback done) = 0;
  virtual void removePod(const std::string& key, DoneCallback done) = 0;
  // What the pod's containers may use together, and its overhead, from now on; what is absent stays. Told after the
  // owner of a given cgroup_parent has limited it; a cgroup of userpod's own is limited here, all or nothing (see
  // oci::updateResources). NoSuchPod.
  virtual void updatePod(const std::string& key, std::optional<Resources> overhead, std::optional<Resources> resources,
                         DoneCallback done) = 0;
  virtual void createContainer(const std::string& podKey, ContainerConfig config, Origin origin,
                               Callback<std::string> done) = 0;
  virtual void startContainer(const std::string& key, DoneCallback done) = 0;
  // Grace in milliseconds; 0 kills at once. A shorter grace shortens a running stop, a longer one does not extend it.
  virtual void stopContainer(const std::string& key, std::chrono::milliseconds grace, DoneCallback done) = 0;
  virtual void removeContainer(const std::string& key, DoneCallback done) = 0;
  // Freezes a running container's cgroup, and thaws it; done already is success. A stop thaws it first, a kill needs
  // not to, an exec is refused, other signals wait. InvalidState: it does not run, or is being stopped. Timeout: a
  // process waits for a device and cannot be frozen; nothing is frozen then. The CRI calls a paused container running.
  virtual void pauseContainer(const std::string& key, DoneCallback done) = 0;
  virtual void resumeContainer(const std::string& key, DoneCallback done) = 0;
  // whole: every process of the container's cgroup, else its first process only.
  virtual void killContainer(const std::string& key, int signal, bool whole, DoneCallback done) = 0;
  // Limits of a created or running container; see oci::updateResources for what stays and what fails.
  virtual void updateContainer(const std::string& key, Resources wanted, DoneCallback done) = 0;
  // After a rotation: a new file at the log's path takes all further output. Of a created or running container only.
  virtual void reopenContainerLog(const std::string& key, DoneCallback done) = 0;
  virtual void execSync(const std::string& key, std::vector<std::string> command, std::chrono::milliseconds timeout,
                        Callback<oci::ExecResult> done) = 0;

  virtual std::string containerSpec(const std::string& id) const = 0;  // config.json, "" when gone
  // Paths in the node; they lead somewhere while the pod is ready.
  virtual network::PodNamespaces podNamespaces(const PodRecord& pod) const = 0;

  // Images.
  virtual void pullImage(images::PullRequest request, Callback<std::string> done) = 0;  // image id
  virtual std::shared_ptr<const ImageRecord> findImage(const std::string& reference) const = 0;
  // Manifest and config of an image, as served; the record has nothing else. NoSuchImage.
  virtual void imageDocuments(const std::string& id, Callback<ImageRecord> done) = 0;
  // With all its names. Unknown: success. When it answers, the image is in no list any more. Busy: a container uses it,
  // or is being made of it.
  virtual void removeImage(const std::string& reference, DoneCallback done) = 0;
  // Removes images that no container uses and that are not pinned. After a failure it goes on, and tells of the first.
  virtual void pruneImages(PruneOptions options, Callback<PruneResult> done) = 0;
  virtual void filesystemUsage(
      std::function<void(Result<std::pair<storage::FilesystemUsage, storage::FilesystemUsage>>)> done) = 0;

  // Figures of these, in their order, read now by threads that no lifecycle operation keeps busy. What has ended
  // meanwhile comes without a cgroup's.
  virtual void containerFigures(std::vector<std::shared_ptr<const ContainerRecord>> containers, stats::Detail detail,
                                std::function<void(std::vector<stats::ContainerFigures>)> done) = 0;
  // With their running containers.
  virtual void podFigures(std::vector<std::shared_ptr<const PodRecord>> pods, stats::Detail detail,
                          std::function<void(std::vector<stats::PodFigures>)> done) = 0;

  // Jobs: the same operations with a record that can be watched and cancelled. Returns the job's id at once.
  virtual std::uint32_t pullImageJob(images::PullRequest request, const std::string& sender) = 0;
  virtual std::uint32_t pruneImagesJob(PruneOptions options, const std::string& sender) = 0;
  // Compares the records with what there is, and mends what is safe if it is told to. What is under way is no finding.
  virtual std::uint32_t checkJob(CheckOptions options, const std::string& sender) = 0;
  virtual std::uint32_t job(const std::string& type, const std::string& object, const std::string& sender,
                            std::function<void(DoneCallback)> operation) = 0;
  virtual Status cancelJob(std::uint32_t id) = 0;  // NoSuchJob, InvalidState when over or not cancelable
  virtual void waitJob(std::uint32_t id, std::function<void(Result<std::shared_ptr<const JobRecord>>)> done) = 0;
};

}  // namespace userpod::core

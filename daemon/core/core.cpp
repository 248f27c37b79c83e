#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <future>

#include "daemon/core/core_impl.hpp"
#include "daemon/sys/log.hpp"
#include "daemon/sys/util.hpp"
#include "userns/uplink.hpp"

namespace userpod::core {
namespace {

// Enough for many stops and creates at once; what they wait for is mostly other processes.
constexpr unsigned kWorkers = 12;
constexpr unsigned kNetworkWorkers = 8;
constexpr std::chrono::seconds kStoreInterval{3};
constexpr std::chrono::milliseconds kHostInterval{200};  // a host that changes says much at once
constexpr std::chrono::seconds kNetworkInterval{1};

// Before anything else fails there, with less to say about it.
Status checkData(const std::string& path) {
  constexpr const char* kElse = "or set XDG_DATA_HOME to another place";
  if (auto made = makeDirectories(path, 0700); !made)
    return std::move(made).error().wrap("images and containers").as(Code::StorageFailed);
  if (::access(path.c_str(), R_OK | W_OK | X_OK) == 0) return {};
  auto failure = sysError("images and containers: write in " + path);
  struct stat info{};
  std::string mend = kElse;
  if (failure.sysErrno() == EROFS)
    mend = fmt::format("mount it writable, {}", kElse);
  else if (::stat(path.c_str(), &info) == 0)
    mend = fmt::format("it has mode {:o} and belongs to uid {} of the node, which is not this user: chown it, {}",
                       info.st_mode & 07777, info.st_uid, kElse);
  return Error(Code::StorageFailed, failure.text() + ": " + mend, failure.sysErrno());
}

}  // namespace

void OperationQueue::acquire(std::function<void()> operation) {
  if (busy_) {
    waiting_.push_back(std::move(operation));
    return;
  }
  busy_ = true;
  operation();
}

void OperationQueue::release() {
  if (waiting_.empty()) {
    busy_ = false;
    return;
  }
  auto next = std::move(waiting_.front());
  waiting_.pop_front();
  next();
}

std::string podNameKey(const PodConfig& config) {
  // By what no name may hold: a_b of c is not a of b_c.
  return fmt::format("{}/{}/{}/{}", config.name, config.nameSpace, config.uid, config.attempt);
}

std::string containerNameKey(const std::string& podId, const ContainerConfig& config) {
  return fmt::format("{}/{}_{}", podId, config.name, config.attempt);
}

Result<std::unique_ptr<Core>> Core::open(Parts parts) {
  auto core = std::make_unique<CoreImpl>(std::move(parts));
  USERPOD_CHECK(core->start());
  return std::unique_ptr<Core>(std::move(core));
}

CoreImpl::~CoreImpl() {
  // The strand first: afterwards no task starts work. Work under way ends, its answers are dropped; what it did is
  // found by the next daemon.
  if (strand_) strand_->shutdown();
  for (auto& [id, job] : jobs_)
    if (job.record->type == kCheckJob) job.stop.request_stop();  // it may count for minutes
  parking_.shutdown();                                           // its tasks hand work to the workers
  if (network_) network_->stop();
  pulls_.reset();
  // What they run may hand on to any of them, and so finds all of them until the last has ended.
  for (auto* workers : {workers_.get(), networkWorkers_.get(), statsWorkers_.get()})
    if (workers) workers->shutdown();
}

Status CoreImpl::start() {
  const Paths& paths = parts_.paths;
  USERPOD_CHECK(checkData(paths.data));
  for (const auto& directory : {paths.runtime + "/pods", paths.runtime + "/containers", paths.exits(), paths.data})
    USERPOD_CHECK(makeDirectories(directory, 0700));
  USERPOD_TRY(node, NodeInside::open(paths));
  node_ = std::move(node);
  USERPOD_TRY(store, store::LiveStore::open(paths.liveDatabase()));
  store_ = std::move(store);
  USERPOD_CHECK(openParts());
  USERPOD_TRY(loop, EventLoop::start("core"));
  strand_ = std::move(loop);
  workers_ = std::make_unique<Workers>(kWorkers, "worker");
  statsWorkers_ = std::make_unique<Workers>(figureThreads(), "stats");
  pulls_ = std::make_unique<Pulls>(*strand_, *images_, [this](const std::string& id) { refreshImages(id, false); });
  if (network_->stack() == "cni") networkWorkers_ = std::make_unique<Workers>(kNetworkWorkers, "network");
  std::promise<Status> ready;
  post([&] {
    Status status = startWatches();
    if (status) status = recover();
    if (status) refreshConditions();
    ready.set_value(std::move(status));
  });
  return ready.get_future().get();
}

Status CoreImpl::openParts() {
  USERPOD_TRY(content, store_->load());
  USERPOD_TRY(storage, storage::Storage::open(parts_.paths, *parts_.settings.current(), node_));
  storage_ = std::move(storage);
  if (!storage_->reason().empty()) logWarning("storage driver {}: {}", storage_->driver(), storage_->reason());
  std::set<std::string> layersInUse;
  for (const auto& container : content.containers)
    if (container.state != ContainerRecord::State::Exited)
      layersInUse.insert(container.layers.begin(), container.layers.end());
  USERPOD_TRY(images, images::Images::open(parts_.paths, parts_.settings, std::move(layersInUse)));
  images_ = std::move(images);
  USERPOD_TRY(network, network::Network::open(parts_.paths, parts_.settings, node_, earlierNetwork(content)));
  network_ = std::move(network);
  USERPOD_TRY(runtime, oci::Runtime::open(parts_.paths, *parts_.settings.current(), node_));
  runtime_ = std::move(runtime);
  stats_ = stats::Stats::open(node_, [this](const std::string& id) { return storage_->writableLayer(id); });
  auto [name, version] = runtime_->version();
  info_ = {USERPOD_VERSION,
           name,
           version,
           storage_->driver(),
           storage_->root(),
           network_->stack(),
           storage_->reason(),
           node_.hostCgroup,
           storage_->containerRoot()};
  imageList_ = std::make_shared<const ImageList>(images_->list());
  return {};
}

network::Earlier CoreImpl::earlierNetwork(const store::LiveStore::Content& content) const {
  network::Earlier earlier;
  earlier.freed = content.freedAddresses;
  for (const auto& pod : content.pods) {
    if (pod.node == node_.instance && pod.state == PodRecord::State::Ready) {
      earlier.living.push_back(pod);
      continue;
    }
    // Freed at the latest now.
    for (const auto& address : pod.addresses) earlier.freed[address] = bootNanos();
  }
  return earlier;
}

Status CoreImpl::startWatches() {
  USERPOD_TRY(watches, Watches::start(*strand_));
  watches_ = std::move(watches);
  // conmon writes a temporary file and renames it: the whole text is there at IN_MOVED_TO.
  USERPOD_CHECK(watches_->add(parts_.paths.exits(), IN_MOVED_TO | IN_CLOSE_WRITE, [this](const std::string& name) {
    if (!name.empty()) return exitFileSeen(name);
    auto all = containers_;
    for (const auto& [id, container] : all) exitFileSeen(id);
  }));
  // The holder's word about the uplink, renamed into place too.
  USERPOD_CHECK(
      watches_->add(parts_.paths.nodeState(), IN_MOVED_TO, [this](const std::string&) { refreshConditions(); }));
  if (network_->stack() == "cni") pollNetwork();
  return watchHostAddresses();
}

// The daemon is in the host's network namespace.
Status CoreImpl::watchHostAddresses() {
  USERPOD_TRY(watch, HostAddressWatch::open());
  hostWatch_.emplace(std::move(watch));
  return strand_->watch(hostWatch_->fd(), EPOLLIN, [this](std::uint32_t) {
    hostWatch_->drain();
    if (std::exchange(followingHost_, true)) return;
    strand_->runAfter(kHostInterval, [this] {
      followingHost_ = false;
      workers_->submit([this] { network_->followHost(); });
    });
  });
}

// Configuration files and plugins come and go without a word to the core.
void CoreImpl::pollNetwork() {
  if (std::string problem = network_->problem(); problem != networkProblem_) {
    networkProblem_ = problem;
    publish(Change::Kind::Conditions, "");
  }
  strand_->runAfter(kNetworkInterval, [this] { pollNetwork(); });
}

void CoreImpl::subscribe(std::function<void(const Change&)> listener) {
  post([this, listener = std::move(listener)]() mutable { listeners_.push_back(std::move(listener)); });
}

void CoreImpl::diagnose(std::function<void(std::vector<Check>)> done) {
  workers_->submit([this, done = std::move(done)] { done(diagnoseHost(parts_.paths, *parts_.settings.current())); });
}

void CoreImpl::networkView(std::function<void(network::NetworkView)> done) {
  workers_->submit([this, done = std::move(done)] { done(network_->view()); });
}

void CoreImpl::publish(Change::Kind kind, const std::string& id, bool removed) {
  auto next = std::make_shared<Snapshot>();
  next->pods.reserve(pods_.size());
  for (const auto& [key, pod] : pods_) next->pods.push_back(pod->record);
  next->containers.reserve(containers_.size());
  for (const auto& [key, container] : containers_) next->containers.push_back(container->record);
  next->images = imageList_;
  for (const auto& [key, job] : jobs_) next->jobs.push_back(job.record);
  next->conditions = conditions();
  std::shared_ptr<const Snapshot> snapshot = std::move(next);
  auto earlier = snapshot;  // not destroyed under the lock
  {
    std::lock_guard lock(snapshotMutex_);
    snapshot_.swap(earlier);
  }
  Change change{kind, id, removed, snapshot};
  for (const auto& listener : listeners_) listener(change);
  // Some conditions follow from what is listed.
  if (kind == Change::Kind::Conditions || (earlier && earlier->conditions == snapshot->conditions)) return;
  for (const auto& listener : listeners_) listener({Change::Kind::Conditions, "", false, snapshot});
}

std::vector<Condition> CoreImpl::conditions() const {
  std::vector<Condition> list;
  list.push_back({"RuntimeReady", true, "", ""});
  std::string network = network_->problem();
  list.push_back({"NetworkReady", network.empty(), network.empty() ? "" : "NetworkPluginNotReady", network});
  std::string note = network_->note();
  list.push_back({"NetworkComplete", note.empty(), note.empty() ? "" : "NetworkFeatureMissing", note});
  list.push_back(containersCondition("Monitors", kMonitorLost, "conmon, their monitor, was killed"));
  list.push_back(containersCondition("RootFilesystems", kRootLost, "fuse-overlayfs, which served their files, ended"));
  list.push_back(nodeCondition());
  const std::string& fallback = info_.storageReason;
  list.push_back({"StorageDriver", fallback.empty(), fallback.empty() ? "" : "NativeOverlayUnavailable",
                  fallback.empty() ? "" : info_.storageDriver + " is used: " + fallback});
  list.push_back({"Store", storeProblem_.empty(), storeProblem_.empty() ? "" : "StoreFailed", storeProblem_});
  list.insert(list.end(), hostConditions_.begin(), hostConditions_.end());
  for (const auto& [type, condition] : reported_) list.push_back(condition);
  return list;
}

void CoreImpl::report(Condition condition) {
  post([this, condition = std::move(condition)] {
    auto [known, added] = reported_.try_emplace(condition.type, condition);
    if (!added && known->second == condition) return;
    known->second = condition;
    publish(Change::Kind::Conditions, "");
  });
}

// What the node's holder decides.
void CoreImpl::refreshConditions() {
  std::vector<Condition> host;
  auto uplink = readUplinkState(parts_.paths);
  bool up = uplink.phase == UplinkState::Phase::Up;
  bool disabled = uplink.phase == UplinkState::Phase::None;
  host.push_back({"Uplink", up, up ? "" : disabled ? "UplinkDisabled" : "UplinkDown", uplink.reason});
  std::string missing;
  for (std::string_view controller : {"cpu", "memory", "pids"})
    if (node_.controllers.find(controller) == std::string::npos)
      missing += (missing.empty() ? "" : ", ") + std::string(controller);
  host.push_back({"CgroupDelegation", missing.empty(), missing.empty() ? "" : "ControllersMissing",
                  missing.empty() ? ""
                                  : "not delegated: " + missing +
                                        "; limits of these kinds are not enforced and status does not show them; "
                                        "`userpodctl doctor` tells how to delegate them"});
  if (host != hostConditions_) {
    hostConditions_ = std::move(host);
    publish(Change::Kind::Conditions, "");
  }
}

void CoreImpl::noteStore(const Status& status) {
  if (status) return;
  if (storeProblem_.empty()) {
    logError("live store: {}; what runs goes on, nothing new is made until it can be written", status.error());
    storeProblem_ = status.error().text();
    strand_->runAfter(kStoreInterval, [this] { catchUpStore(); });
    publish(Change::Kind::Conditions, "");
  }
  storeProblem_ = status.error().text();
}

store::LiveStore::Content CoreImpl::allRecords() const {
  store::LiveStore::Content content;
  for (const auto& [id, pod] : pods_) content.pods.push_back(*pod->record);
  for (const auto& [id, container] : containers_) content.containers.push_back(*container->record);
  return content;
}

void CoreImpl::catchUpStore() {
  auto content = allRecords();
  auto written = store_->replace(content);
  if (!written && store::isDamage(written.error())) written = store_->rebuild(content);
  if (!written) {
    storeProblem_ = written.error().text();
    strand_->runAfter(kStoreInterval, [this] { catchUpStore(); });
    return;
  }
  logInfo("live store: it can be written again, and is complete");
  storeProblem_.clear();
  publish(Change::Kind::Conditions, "");
}

void CoreImpl::commit(const PodPointer& pod, PodRecord record) {
  noteStore(store_->putPod(record));
  auto before = pod->record->state;
  pod->record = std::make_shared<const PodRecord>(std::move(record));
  publish(Change::Kind::Pod, pod->record->id);
  emitStep(before, pod);
}

void CoreImpl::commit(const ContainerPointer& container, ContainerRecord record) {
  noteStore(store_->putContainer(record));
  auto before = container->record->state;
  container->record = std::make_shared<const ContainerRecord>(std::move(record));
  followLayer(*container->record);
  publish(Change::Kind::Container, container->record->id);
  emitStep(before, container);
}

void CoreImpl::followLayer(const ContainerRecord& record) {
  stats_->followLayer(record.id, record.state == ContainerRecord::State::Exited);
}

void CoreImpl::forget(const PodPointer& pod) {
  const PodRecord& record = *pod->record;
  if (!record.addresses.empty()) noteStore(store_->putFreedAddresses(record.addresses, bootNanos()));
  noteStore(store_->removePod(record.id));
  auto name = podNames_.find(podNameKey(record.config));
  if (name != podNames_.end() && name->second == record.id) podNames_.erase(name);
  pod->removed = true;
  pods_.erase(record.id);
  stats_->forget(record.id);
  publish(Change::Kind::Pod, record.id, true);
  emitEnd(pod);
}

void CoreImpl::forget(const ContainerPointer& container) {
  const ContainerRecord& record = *container->record;
  noteStore(store_->removeContainer(record.id));
  auto name = containerNames_.find(containerNameKey(record.podId, record.config));
  if (name != containerNames_.end() && name->second == record.id) containerNames_.erase(name);
  if (auto pod = pods_.find(record.podId); pod != pods_.end()) pod->second->containers.erase(record.id);
  container->removed = true;
  containers_.erase(record.id);
  stats_->forget(record.id);
  publish(Change::Kind::Container, record.id, true);
  emitEnd(container);
}

}  // namespace userpod::core

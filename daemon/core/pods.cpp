// Making, stopping and removing pods.
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>

#include "daemon/core/core_impl.hpp"
#include "daemon/sys/log.hpp"
#include "daemon/sys/stage.hpp"
#include "daemon/sys/util.hpp"

namespace userpod::core {
namespace {

// Of a pod's attempts kubelet takes the one that was created last for the current one, so that a clock that was set
// back must not make it the one before.
std::int64_t podCreationTime(const std::map<std::string, PodPointer>& pods, const PodConfig& config) {
  std::int64_t time = nowNanos();
  for (const auto& [id, pod] : pods) {
    const PodConfig& other = pod->record->config;
    if (other.uid == config.uid && other.name == config.name && other.nameSpace == config.nameSpace)
      time = std::max(time, pod->record->createdAt + 1);
  }
  return time;
}

std::string hostnameOf(const PodRecord& pod) {
  if (!pod.config.hostname.empty()) return pod.config.hostname;
  std::array<char, 256> name{};
  if (pod.config.security.namespaces.network == NamespaceMode::Node && ::gethostname(name.data(), name.size() - 1) == 0)
    return name.data();
  return pod.id.substr(0, 12);
}

// The cgroup that will hold the pod's containers, below the node's root.
Result<std::string> podCgroup(const PodConfig& config, const std::string& id) {
  if (config.cgroupParent.empty()) return "/pods/" + id;
  std::string path = config.cgroupParent.front() == '/' ? config.cgroupParent : "/" + config.cgroupParent;
  while (path.size() > 1 && path.back() == '/') path.pop_back();
  auto parts = split(std::string_view(path).substr(1), '/');
  bool bad = std::any_of(parts.begin(), parts.end(), [](const std::string& part) {
    return part.empty() || part == "." || part == ".." || part.find('\n') != std::string::npos;
  });
  if (bad || path.size() > 2048)
    return Error(Code::InvalidArgument, "cgroup_parent " + config.cgroupParent.substr(0, 256) +
                                            " is not a path below the node's cgroup, like /kubepods/burstable/podUID");
  for (std::string own : {"/init", "/uplink", "/mon", "/fuse", "/exec", "/ports", "/cni"})
    if (path == own || path.starts_with(own + "/"))
      return Error(Code::InvalidArgument, "cgroup_parent " + path + " is the node's own");
  return path;
}

}  // namespace

void CoreImpl::runPod(PodConfig config, std::string handler, Origin origin, Callback<std::string> done) {
  auto shared = std::make_shared<PodConfig>(std::move(config));
  post([this, shared, handler = std::move(handler), origin, done = std::move(done)]() mutable {
    if (!runtime_->hasHandler(handler))
      return done(Error(Code::InvalidArgument, "runtime handler " + handler + " is not configured in userpod.toml"));
    std::string name = podNameKey(*shared);
    if (auto known = podNames_.find(name); known != podNames_.end()) {
      const PodPointer& pod = pods_.at(known->second);
      if (pod->record->state == PodRecord::State::Creating) return pod->creating.push_back(std::move(done));
      if (pod->record->state == PodRecord::State::Ready && !pod->stopping) return done(pod->record->id);
      return done(
          Error(Code::NameInUse, fmt::format("pod {}/{} attempt {} exists as {} and is stopped; remove it first",
                                             shared->nameSpace, shared->name, shared->attempt, pod->record->id)));
    }
    PodRecord record;
    record.id = randomHex(32);
    auto cgroup = podCgroup(*shared, record.id);
    if (!cgroup) return done(std::move(cgroup).error());
    record.cgroup = *cgroup;
    auto addresses = network_->reserve(record.id, *shared);
    if (!addresses)
      return done(std::move(addresses).error().wrap(fmt::format("pod {}/{}", shared->nameSpace, shared->name)));
    record.addresses = std::move(*addresses);
    record.config = std::move(*shared);
    record.origin = origin;
    record.runtimeHandler = handler;
    record.createdAt = podCreationTime(pods_, record.config);
    record.node = node_.instance;
    if (auto written = commitNew(record, &store::LiveStore::putPod); !written) {
      workersFor(record).submit([this, record] { (void)network_->tearDown(record); });  // gives the addresses back
      return done(
          std::move(written).error().wrap(fmt::format("pod {}/{}", record.config.nameSpace, record.config.name)));
    }
    auto pod = std::make_shared<PodEntity>();
    pods_[record.id] = pod;
    podNames_[name] = record.id;
    pod->creating.push_back(std::move(done));
    pod->record = std::make_shared<const PodRecord>(record);
    publish(Change::Kind::Pod, record.id);
    reachStage("pod.recorded", record.id);
    pod->operations.acquire([this, pod] {
      background<Result<PodMade>>(
          workersFor(*pod->record), [this, record = pod->record] { return makePod(*record); },
          [this, pod](Result<PodMade> made) { finishRunPod(pod, std::move(made)); });
    });
  });
}

// Plugins may hang, each up to cni-timeout: they must not hold what containers, execs and streams need.
Workers& CoreImpl::workersFor(const PodRecord& record) {
  bool plugins = networkWorkers_ && record.config.security.namespaces.network != NamespaceMode::Node;
  return plugins ? *networkWorkers_ : *workers_;
}

Result<CoreImpl::PodMade> CoreImpl::makePod(const PodRecord& record) {
  auto make = [&]() -> Result<PodMade> {
    const auto& security = record.config.security;
    if (!security.privileged)
      USERPOD_CHECK(oci::checkModules(policy::hostSecurityModules(), security.apparmor, security.selinux));
    std::string directory = parts_.paths.podDirectory(record.id);
    USERPOD_CHECK(makeDirectories(directory, 0700));
    if (!record.config.logDirectory.empty()) {
      if (auto made = makeDirectories(record.config.logDirectory, 0700); !made)
        return std::move(made).error().wrap("log_directory");
    }
    if (auto cgroup = node_.makeCgroup(record.cgroup); !cgroup) return std::move(cgroup).error();
    reachStage("pod.cgroup", record.id);
    USERPOD_CHECK(limitPod(record));
    PodMade made;
    made.hostname = hostnameOf(record);
    PodConfig config = record.config;
    config.hostname = made.hostname;
    USERPOD_TRY(network, network_->setUp(record, made.hostname));
    made.network = std::move(network);
    reachStage("pod.network", record.id);
    if (oci::sharesPid(record.config)) {
      USERPOD_TRY(pause, runtime_->startPause(record, made.network.namespaces));
      made.pause = std::move(pause);
      reachStage("pod.pause", record.id);
    }
    USERPOD_CHECK(network::writePodFiles(directory, config, made.hostname, made.network.addresses));
    return made;
  };
  auto made = make();
  if (made) return made;
  undoPod(record);
  return std::move(made).error().wrap(fmt::format("pod {}/{}", record.config.nameSpace, record.config.name));
}

// Both, whatever becomes of the first: an address must not be lost for a process that does not end.
void CoreImpl::endNamespaces(const PodRecord& record) {
  for (const auto& status : {node_.removeCgroup(oci::pauseCgroup(record)), network_->tearDown(record)})
    if (!status) logFailure(Level::Warning, status.error(), {{"POD_ID", record.id}});
}

void CoreImpl::undoPod(const PodRecord& record) {
  auto note = [&](const Status& status) {
    if (!status) logFailure(Level::Warning, status.error(), {{"POD_ID", record.id}});
  };
  endNamespaces(record);
  // A cgroup that the caller gave stays: kubelet made it and removes it.
  if (hasOwnCgroup(record)) note(node_.removeCgroup(record.cgroup));
  note(removeTree(parts_.paths.podDirectory(record.id)));
}

void CoreImpl::finishRunPod(const PodPointer& pod, Result<PodMade> made) {
  auto waiters = std::exchange(pod->creating, {});
  std::string id = pod->record->id;
  if (!made) {
    logFailure(Level::Warning, made.error(), {{"POD_ID", id}}, "pod not made");
    forget(pod);
    pod->operations.release();
    for (const auto& done : waiters) done(made.error());
    return;
  }
  pod->namespaces = made->network.namespaces;
  pod->hostname = made->hostname;
  PodRecord record = *pod->record;
  record.state = PodRecord::State::Ready;
  record.addresses = made->network.addresses;
  record.pausePid = made->pause.pid;
  record.pauseStart = made->pause.start;
  watchPause(pod, std::move(made->pause.pidfd));
  commit(pod, std::move(record));
  reachStage("pod.ready", id);
  pod->operations.release();
  for (const auto& done : waiters) done(id);
}

void CoreImpl::stopContainersOf(const PodPointer& pod, std::chrono::milliseconds grace, std::function<void()> then) {
  auto left = std::make_shared<std::size_t>(pod->containers.size() + 1);
  auto one = [left, then = std::move(then)] {
    if (--*left == 0) then();
  };
  auto ids = pod->containers;
  for (const auto& id : ids) stopEntity(containers_.at(id), grace, [one](const Status&) { one(); });
  one();
}

void CoreImpl::stopPod(const std::string& key, DoneCallback done) {
  post([this, key, done = std::move(done)]() mutable {
    auto record = snapshot()->pod(key);
    if (!record) return done(record.error().code() == Code::NoSuchPod ? Status() : Status(std::move(record).error()));
    stopPodEntity(pods_.at((*record)->id), kPodStopGrace, std::move(done));
  });
}

void CoreImpl::stopPodEntity(const PodPointer& pod, std::chrono::milliseconds grace, DoneCallback done) {
  pod->stopping = true;
  // The queue first: a pod still being made is stopped once it is there.
  stopContainersOf(pod, grace, [this, pod, done = std::move(done)]() mutable {
    pod->operations.acquire([this, pod, done = std::move(done)]() mutable {
      if (pod->removed || pod->record->state == PodRecord::State::NotReady) {
        pod->operations.release();
        return done({});
      }
      unwatchPause(pod);
      background<bool>(
          workersFor(*pod->record),
          [this, record = pod->record] {
            endNamespaces(*record);
            return true;
          },
          [this, pod, done = std::move(done)](bool) {
            reachStage("pod.torn-down", pod->record->id);
            PodRecord record = *pod->record;
            record.state = PodRecord::State::NotReady;
            record.pausePid = 0;
            commit(pod, std::move(record));
            reachStage("pod.stopped", pod->record->id);
            pod->operations.release();
            done({});
          });
    });
  });
}

void CoreImpl::removePod(const std::string& key, DoneCallback done) {
  post([this, key, done = std::move(done)]() mutable {
    auto record = snapshot()->pod(key);
    if (!record) return done(record.error().code() == Code::NoSuchPod ? Status() : Status(std::move(record).error()));
    PodPointer pod = pods_.at((*record)->id);
    stopPodEntity(pod, std::chrono::milliseconds(0), [this, pod, done = std::move(done)](const Status&) mutable {
      auto left = std::make_shared<std::size_t>(pod->containers.size() + 1);
      auto failure = std::make_shared<Status>();
      auto one = [this, pod, left, failure, done = std::move(done)](Status status) mutable {
        if (!status) *failure = std::move(status);
        if (--*left > 0) return;
        if (!*failure) return done(std::move(*failure));
        removeStoppedPod(pod, std::move(done));
      };
      auto ids = pod->containers;
      for (const auto& id : ids) removeContainerEntity(containers_.at(id), one);
      one({});
    });
  });
}

void CoreImpl::removeStoppedPod(const PodPointer& pod, DoneCallback done) {
  pod->operations.acquire([this, pod, done = std::move(done)]() mutable {
    if (pod->removed) {
      pod->operations.release();
      return done({});
    }
    background<bool>(
        workersFor(*pod->record),
        [this, record = pod->record] {
          undoPod(*record);
          reachStage("pod.removed", record->id);
          return true;
        },
        [this, pod, done = std::move(done)](bool) {
          forget(pod);
          reachStage("pod.forgotten", pod->record->id);
          pod->operations.release();
          done({});
        });
  });
}

}  // namespace userpod::core

// Stopping containers, and how their exits are seen.
#include <algorithm>
#include <csignal>

#include "daemon/core/core_impl.hpp"
#include "daemon/sys/log.hpp"
#include "daemon/sys/stage.hpp"
#include "daemon/sys/util.hpp"

namespace userpod::core {
namespace {

// How long after conmon's end its exit file may still be on its way through the watch.
constexpr std::chrono::milliseconds kExitFileDelay{500};
// How long killed processes may wait for an answer of their root file system before that is ended too.
constexpr std::chrono::seconds kServerGrace{5};
constexpr std::int32_t kLostExitCode = 255;  // as CRI-O reports an exit nobody saw

bool ended(const ContainerRecord& record) {
  return record.state == ContainerRecord::State::Exited || record.state == ContainerRecord::State::Unknown;
}

}  // namespace

void CoreImpl::stopContainer(const std::string& key, std::chrono::milliseconds grace, DoneCallback done) {
  post([this, key, grace, done = std::move(done)]() mutable {
    auto record = snapshot()->container(key);
    if (!record)
      return done(record.error().code() == Code::NoSuchContainer ? Status() : Status(std::move(record).error()));
    stopEntity(containers_.at((*record)->id), grace, std::move(done));
  });
}

void CoreImpl::stopEntity(const ContainerPointer& container, std::chrono::milliseconds grace, DoneCallback done) {
  if (container->removed || ended(*container->record)) return done({});
  if (container->stop) {
    auto deadline = EventLoop::Clock::now() + grace;
    container->stop->waiters.push_back(std::move(done));
    if (deadline < container->stop->deadline && !container->stop->killed) {
      container->stop->deadline = deadline;
      armStopTimer(container);
    }
    return;
  }
  if (container->operations.busy()) {
    // Being created or started: that ends first, then it is stopped.
    container->operations.acquire([this, container, grace, done = std::move(done)]() mutable {
      container->operations.release();
      stopEntity(container, grace, std::move(done));
    });
    return;
  }
  container->stop.emplace();
  container->stop->waiters.push_back(std::move(done));
  beginStop(container, grace);
}

void CoreImpl::beginStop(const ContainerPointer& container, std::chrono::milliseconds grace) {
  thawForStop(container);
  const ContainerRecord& record = *container->record;
  container->stop->deadline = EventLoop::Clock::now() + grace;
  // A container that was never started waits inside the OCI runtime: there is nobody to be asked.
  if (grace.count() <= 0 || record.state == ContainerRecord::State::Created) return killForStop(container);
  if (auto sent = signalPidfd(container->process.get(), record.stopSignal); !sent && sent.error().sysErrno() != ESRCH)
    logFailure(Level::Warning, sent.error(), {{"CONTAINER_ID", record.id}});
  armStopTimer(container);
  reachStage("stop.signalled", record.id);
}

void CoreImpl::armStopTimer(const ContainerPointer& container) {
  strand_->cancel(container->stop->timer);
  container->stop->timer = strand_->runAt(container->stop->deadline, [this, container] {
    if (container->stop && !container->stop->killed) killForStop(container);
  });
}

void CoreImpl::killForStop(const ContainerPointer& container) {
  container->stop->killed = true;
  killProcesses(container);
  reachStage("stop.killed", container->record->id);
  if (!container->server) return;
  strand_->runAfter(kServerGrace, [container] {
    if (container->server) (void)signalPidfd(container->server.get(), SIGKILL);
  });
}

// The whole cgroup: with a PID namespace that is shared, the first process's end would not be everybody's.
void CoreImpl::killProcesses(const ContainerPointer& container) {
  (void)writeFile(node_.cgroupRoot + container->record->cgroup + "/cgroup.kill", "1");
  if (container->process) (void)signalPidfd(container->process.get(), SIGKILL);
}

void CoreImpl::killContainer(const std::string& key, int signal, bool whole, DoneCallback done) {
  post([this, key, signal, whole, done = std::move(done)] {
    auto record = snapshot()->container(key);
    if (!record) return done(std::move(record).error());
    const ContainerPointer& container = containers_.at((*record)->id);
    if (container->record->state != ContainerRecord::State::Running || !container->process)
      return done(Error(Code::InvalidState, "container " + (*record)->id + " is not running"));
    if (!whole) return done(signalPidfd(container->process.get(), signal));
    if (signal == SIGKILL) return done(writeFile(node_.cgroupRoot + (*record)->cgroup + "/cgroup.kill", "1"));
    signalCgroup(node_.cgroupRoot + (*record)->cgroup, signal);
    done({});
  });
}

void CoreImpl::exitFileSeen(const std::string& id) {
  auto found = containers_.find(id);
  if (leavingEnds_ || found == containers_.end() || found->second->exitSeen) return;
  ContainerPointer container = found->second;
  if (!pathExists(parts_.paths.exits() + "/" + id)) return;
  container->exitSeen = true;
  container->operations.acquire([this, container] { handleExit(container); });
}

// With the container's queue held; every path releases it.
void CoreImpl::handleExit(const ContainerPointer& container) {
  if (leavingEnds_ || container->removed || ended(*container->record)) return container->operations.release();
  auto exit = oci::readExitFile(parts_.paths, container->record->id);
  if (!exit || !*exit) {
    if (!exit) logFailure(Level::Warning, exit.error(), {{"CONTAINER_ID", container->record->id}});
    return commitLostExit(container);
  }
  commitExit(container, **exit);
}

void CoreImpl::commitExit(const ContainerPointer& container, const oci::ExitRecord& exit) {
  ContainerRecord record = *container->record;
  record.exitCode = exit.code;
  record.finishedAt = std::max(exit.finishedAt, record.startedAt);  // the clock may have been set back meanwhile
  // Before the OCI runtime deletes the cgroup, and its figures with it.
  record.oomKills = std::max(record.oomKills, oci::oomKills(node_, record.cgroup));
  // One that lost a helper earlier and is now killed by the daemon did not end for want of memory.
  bool killed = container->rootLost || (container->stop && container->stop->killed);
  bool oomKilled = record.oomKills > 0 && exit.code == 128 + SIGKILL && !killed;
  record.reason = oomKilled ? "OOMKilled" : exit.code == 0 ? "Completed" : "Error";
  if (container->rootLost && exit.code != 0) {
    record.reason = kRootLost;
    record.message = "fuse-overlayfs, which served the container's root file system, ended; the container was killed";
  }
  commitEnd(container, std::move(record));
}

// An exit that nobody saw: the monitor was killed, or all of them ended with the node.
void CoreImpl::commitLostExit(const ContainerPointer& container) {
  ContainerRecord record = *container->record;
  auto pod = pods_.find(record.podId);
  bool nodeEnded = pod != pods_.end() && pod->second->record->node != node_.instance;
  record.exitCode = kLostExitCode;
  // When a node ends by force it says nothing; the start of the next one is the nearest time that is known.
  record.finishedAt = nodeEnded ? node_.startedAt : nowNanos();
  record.reason = nodeEnded ? kNodeEnded : kMonitorLost;
  record.message =
      nodeEnded ? "the node, with all its processes, ended under the container"
                : "conmon, the container's monitor, was killed, and the container with it; its exit code is not known";
  logMessage(Level::Warning, record.message, {{"CONTAINER_ID", record.id}});
  commitEnd(container, std::move(record));
}

void CoreImpl::commitEnd(const ContainerPointer& container, ContainerRecord record) {
  record.state = ContainerRecord::State::Exited;
  record.paused = false;
  record.finishedAt = std::max({record.finishedAt, record.startedAt, record.createdAt});
  record.pid = 0;
  reachStage("exit.seen", record.id);
  commit(container, std::move(record));
  reachStage("exit.committed", container->record->id);
  releaseAfterExit(container);
}

// Without its root file system a process goes on until it needs a file, and then fails in a way that says nothing of
// it.
void CoreImpl::watchServer(const ContainerPointer& container, Result<UniqueFd> server) {
  if (!server) return serverEnded(container);
  if (!*server) return;
  container->server = std::move(*server);
  std::weak_ptr<ContainerEntity> weak = container;
  auto watched = strand_->watch(container->server.get(), EPOLLIN, [this, weak](std::uint32_t) {
    if (auto locked = weak.lock()) serverEnded(locked);
  });
  if (!watched) logFailure(Level::Warning, watched.error(), {{"CONTAINER_ID", container->record->id}});
}

void CoreImpl::serverEnded(const ContainerPointer& container) {
  if (container->server) strand_->unwatch(container->server.get());
  container->server.reset();
  if (container->removed || ended(*container->record)) return;
  logMessage(Level::Error,
             "fuse-overlayfs ended under the container, which is killed: it has no root file system any more",
             {{"CONTAINER_ID", container->record->id}});
  container->rootLost = true;
  killProcesses(container);
}

void CoreImpl::watchMonitor(const ContainerPointer& container) {
  if (!container->monitor) return;
  std::weak_ptr<ContainerEntity> weak = container;
  auto watched = strand_->watch(container->monitor.get(), EPOLLIN, [this, weak](std::uint32_t) {
    if (auto locked = weak.lock()) monitorEnded(locked);
  });
  if (!watched) logFailure(Level::Warning, watched.error(), {{"CONTAINER_ID", container->record->id}});
}

// conmon ends after each exit; without an exit file it was killed. The container must not go on then: its output has no
// reader, its end no witness.
void CoreImpl::monitorEnded(const ContainerPointer& container) {
  strand_->unwatch(container->monitor.get());
  container->monitor.reset();
  strand_->runAfter(kExitFileDelay, [this, container] {
    exitFileSeen(container->record->id);
    if (leavingEnds_ || container->exitSeen || container->removed || ended(*container->record)) return;
    container->exitSeen = true;
    killProcesses(container);
    container->operations.acquire([this, container] {
      if (container->removed || ended(*container->record)) return container->operations.release();
      commitLostExit(container);
    });
  });
}

}  // namespace userpod::core

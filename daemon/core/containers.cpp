// Making, starting and removing containers.
#include <fmt/core.h>
#include <unistd.h>

#include "daemon/core/core_impl.hpp"
#include "daemon/sys/log.hpp"
#include "daemon/sys/stage.hpp"
#include "daemon/sys/util.hpp"

namespace userpod::core {
namespace {

// As podCreationTime: of several attempts the last one counts.
std::int64_t containerCreationTime(const PodEntity& pod, const std::map<std::string, ContainerPointer>& containers,
                                   const std::string& name) {
  std::int64_t time = nowNanos();
  for (const auto& id : pod.containers)
    if (auto other = containers.find(id); other != containers.end() && other->second->record->config.name == name)
      time = std::max(time, other->second->record->createdAt + 1);
  return time;
}

std::string absoluteLogPath(const PodConfig& pod, const ContainerConfig& config) {
  if (config.logPath.empty()) return "";
  if (config.logPath.front() == '/') return config.logPath;
  return pod.logDirectory.empty() ? "" : pod.logDirectory + "/" + config.logPath;
}

// What status shows as the image's name: the tag the user wrote, else one of the image's own, else its id.
std::string imageNameFor(const ContainerConfig& config, const ImageRecord& image) {
  if (!config.userSpecifiedImage.empty()) return config.userSpecifiedImage;
  if (!image.repoTags.empty()) return image.repoTags.front();
  if (!image.repoDigests.empty()) return image.repoDigests.front();
  return image.id;
}

}  // namespace

std::string CoreImpl::handlerOf(const ContainerRecord& record) const {
  auto pod = pods_.find(record.podId);
  return pod == pods_.end() ? "" : pod->second->record->runtimeHandler;
}

void CoreImpl::createContainer(const std::string& podKey, ContainerConfig config, Origin origin,
                               Callback<std::string> done) {
  auto shared = std::make_shared<ContainerConfig>(std::move(config));
  post([this, podKey, shared, origin, done = std::move(done)]() mutable {
    auto podRecord = snapshot()->pod(podKey);
    if (!podRecord) return done(std::move(podRecord).error());
    PodPointer pod = pods_.at((*podRecord)->id);
    const std::string& podId = pod->record->id;
    std::string name = containerNameKey(podId, *shared);
    if (auto known = containerNames_.find(name); known != containerNames_.end()) {
      const ContainerPointer& container = containers_.at(known->second);
      if (container->record->state == ContainerRecord::State::Creating)
        return container->creating.push_back(std::move(done));
      return done(container->record->id);
    }
    if (pod->stopping || pod->record->state != PodRecord::State::Ready)
      return done(Error(Code::InvalidState, "pod " + podId + " is not ready: it takes no new containers"));
    auto image = usableImage(shared->image);
    if (!image) return done(std::move(image).error());
    if ((*image)->artifact)
      return done(Error(Code::InvalidArgument, "image " + shared->image.substr(0, 512) +
                                                   " is an OCI artifact, files without a program to run: mount it as "
                                                   "an image volume"));
    if (auto resolved = resolveVolumes(*shared); !resolved) return done(std::move(resolved).error());
    auto target = targetOf(podId, *shared);
    if (!target) return done(std::move(target).error());
    ContainerRecord record;
    record.id = randomHex(32);
    record.podId = podId;
    record.imageId = (*image)->id;
    record.imageName = imageNameFor(*shared, **image);
    record.logPath = absoluteLogPath(pod->record->config, *shared);
    record.cgroup = pod->record->cgroup + "/" + record.id;
    record.config = std::move(*shared);
    record.origin = origin;
    record.createdAt = containerCreationTime(*pod, containers_, record.config.name);
    if (auto written = commitNew(record, &store::LiveStore::putContainer); !written)
      return done(std::move(written).error().wrap("container " + record.config.name));
    auto container = std::make_shared<ContainerEntity>();
    containers_[record.id] = container;
    containerNames_[name] = record.id;
    pod->containers.insert(record.id);
    container->creating.push_back(std::move(done));
    container->record = std::make_shared<const ContainerRecord>(record);
    publish(Change::Kind::Container, record.id);
    reachStage("container.recorded", record.id);
    CreatePlan plan{*pod->record, std::move(record), std::move(*image), pod->namespaces, pod->hostname, *target};
    container->operations.acquire([this, container, plan = std::move(plan)]() mutable {
      background<Result<ContainerMade>>(
          [this, plan = std::move(plan)] { return makeContainer(plan); },
          [this, container](Result<ContainerMade> made) { finishCreate(container, std::move(made)); });
    });
  });
}

// With namespace mode TARGET: the first process of the running container of this pod that is named; else 0.
Result<pid_t> CoreImpl::targetOf(const std::string& podId, const ContainerConfig& config) const {
  const auto& namespaces = config.security.namespaces;
  if (namespaces.pid != NamespaceMode::Target) return pid_t{0};
  USERPOD_TRY(target, snapshot()->container(namespaces.targetId));
  if (target->podId != podId)
    return Error(Code::InvalidArgument, "target_id " + namespaces.targetId + " is a container of another pod");
  if (target->state != ContainerRecord::State::Running)
    return Error(Code::InvalidState, "target_id " + namespaces.targetId + ": that container is not running");
  return static_cast<pid_t>(target->pid);
}

Status CoreImpl::resolveVolumes(ContainerConfig& config) const {
  for (auto& mount : config.mounts) {
    if (mount.image.empty()) continue;
    auto image = usableImage(mount.image);
    if (!image)
      return std::move(image)
          .error()
          .wrap(fmt::format("image to be mounted on {}", excerpt(mount.containerPath, 512)))
          .as(Code::ImageVolumeFailed);
    mount.imageId = (*image)->id;
  }
  return {};
}

Result<std::vector<std::string>> CoreImpl::mountVolumes(ContainerRecord& record) {
  std::vector<std::string> sources;
  for (const auto& mount : record.config.mounts) {
    if (mount.image.empty()) continue;
    auto layers = images_->layers(mount.imageId);
    if (layers) record.layers.insert(record.layers.end(), layers->begin(), layers->end());
    auto source = layers ? storage_->mountVolume(record.id, sources.size(), *layers, mount.imageSubPath)
                         : Result<std::string>(std::move(layers).error());
    if (!source)
      return std::move(source)
          .error()
          .wrap(fmt::format("image {} on {}", excerpt(mount.image, 512), excerpt(mount.containerPath, 512)))
          .as(Code::ImageVolumeFailed);
    sources.push_back(std::move(*source));
    reachStage("volume.mounted", record.id);
  }
  return sources;
}

Result<CoreImpl::ContainerMade> CoreImpl::makeContainer(const CreatePlan& plan) {
  bool logWasThere = !plan.container.logPath.empty() && pathExists(plan.container.logPath);
  auto made = makeContainerParts(plan);
  if (!made) {
    undoContainer(plan.container, plan.pod.runtimeHandler);
    if (!plan.container.logPath.empty() && !logWasThere) ::unlink(plan.container.logPath.c_str());
    return std::move(made).error().wrap("container " + plan.container.config.name);
  }
  return made;
}

Result<CoreImpl::ContainerMade> CoreImpl::makeContainerParts(const CreatePlan& plan) {
  ContainerMade made;
  made.record = plan.container;
  ContainerRecord& record = made.record;
  USERPOD_TRY(layers, images_->layers(plan.image->id));
  record.layers = layers;
  USERPOD_TRY(label, oci::mountLabel(policy::hostSecurityModules(), plan.pod, record));
  USERPOD_TRY(rootfs, storage_->mountContainer(record.id, layers, label));
  USERPOD_TRY(server, storage_->server(record.id));
  made.serverPidfd = std::move(server);
  reachStage("container.mounted", record.id);
  USERPOD_TRY(volumes, mountVolumes(record));
  oci::SpecInput input{plan.pod,          record,
                       *plan.image,       rootfs,
                       plan.namespaces,   parts_.paths.podDirectory(plan.pod.id),
                       plan.hostname,     parts_.paths.runtime,
                       node_.controllers, {}};
  if (plan.targetPid > 0) input.targetPid = plan.targetPid;
  input.recursiveReadOnly = runtime_->recursiveReadOnly(plan.pod.runtimeHandler);
  input.volumes = std::move(volumes);
  auto settings = parts_.settings.current();
  input.cdiSpecDirs = settings->cdiSpecDirs;
  input.hooksDirs = settings->hooksDirs;
  input.pidsLimit = settings->pidsLimit;
  input.allowRuntimeDirectoryMounts = settings->allowRuntimeDirectoryMounts;
  input.nofile = settings->nofile;
  input.nofileSet = settings->nofileSet;
  USERPOD_TRY(spec, oci::buildSpec(input));
  for (const auto& warning : input.warnings) logMessage(Level::Warning, warning, {{"CONTAINER_ID", record.id}});
  std::string bundle = parts_.paths.containerDirectory(record.id);
  USERPOD_CHECK(makeDirectories(bundle, 0700));
  USERPOD_CHECK(writeFile(bundle + "/config.json", spec.json, 0600));
  if (!record.logPath.empty()) {
    auto directory = record.logPath.substr(0, record.logPath.rfind('/'));
    if (auto status = makeDirectories(directory, 0755); !status) return std::move(status).error().wrap("log_path");
  }
  reachStage("container.bundled", record.id);
  record.processArgs = spec.args;
  record.workingDirectory = spec.workingDirectory;
  record.user = spec.user;
  record.stopSignal = spec.stopSignal;
  record.config.resources = spec.resources;  // what is enforced of it
  USERPOD_TRY(process, runtime_->create({record.id, plan.pod.runtimeHandler, bundle, record.logPath, record.config.tty,
                                         record.config.stdinOpen, record.config.stdinOnce}));
  reachStage("container.process", record.id);
  record.pid = process.pid;
  record.pidStart = process.pidStart;
  record.monitorPid = process.monitorPid;
  USERPOD_TRY(pidfd, openPidfd(process.pid));
  made.pidfd = std::move(pidfd);
  if (auto monitor = openPidfd(process.monitorPid)) made.monitorPidfd = std::move(*monitor);
  return made;
}

void CoreImpl::undoContainer(const ContainerRecord& record, const std::string& handler) {
  auto note = [&](const Status& status) {
    if (!status) logFailure(Level::Warning, status.error(), {{"CONTAINER_ID", record.id}});
  };
  note(runtime_->remove(record.id, handler));
  note(storage_->removeContainer(record.id));
  note(node_.removeCgroup(record.cgroup));
  note(removeTree(parts_.paths.containerDirectory(record.id)));
  ::unlink((parts_.paths.exits() + "/" + record.id).c_str());
}

void CoreImpl::finishCreate(const ContainerPointer& container, Result<ContainerMade> made) {
  auto waiters = std::exchange(container->creating, {});
  if (!made) {
    logFailure(Level::Warning, made.error(), {{"CONTAINER_ID", container->record->id}}, "container not made");
    forget(container);
    container->operations.release();
    for (const auto& done : waiters) done(made.error());
    return;
  }
  container->process = std::move(made->pidfd);
  container->monitor = std::move(made->monitorPidfd);
  made->record.state = ContainerRecord::State::Created;
  std::string id = made->record.id;
  commit(container, std::move(made->record));
  reachStage("container.created", id);
  watchMonitor(container);
  watchServer(container, std::move(made->serverPidfd));
  watchOom(container);
  container->operations.release();
  for (const auto& done : waiters) done(id);
}

void CoreImpl::startContainer(const std::string& key, DoneCallback done) {
  post([this, key, done = std::move(done)]() mutable {
    auto record = snapshot()->container(key);
    if (!record) return done(std::move(record).error());
    ContainerPointer container = containers_.at((*record)->id);
    container->operations.acquire([this, container, done = std::move(done)]() mutable {
      const ContainerRecord& current = *container->record;
      if (container->removed || current.state != ContainerRecord::State::Created || container->stop) {
        bool running = current.state == ContainerRecord::State::Running;
        Error error(Code::InvalidState, "container " + current.id + (running ? " is running already" : " has ended") +
                                            ": only a created container can be started");
        container->operations.release();
        return done(std::move(error));
      }
      background<Status>(
          [this, id = current.id, pid = current.pid, handler = handlerOf(current)]() -> Status {
            auto started = runtime_->start(id, handler);
            // A daemon that was killed had started it, too late to be seen when this one began.
            if (!started && runtime_->started(handler, pid)) return {};
            return started;
          },
          [this, container, done = std::move(done)](Status started) mutable {
            finishStart(container, std::move(started), std::move(done));
          });
    });
  });
}

void CoreImpl::finishStart(const ContainerPointer& container, Status started, DoneCallback done) {
  ContainerRecord record = *container->record;
  reachStage("start.done", record.id);
  if (started) {
    record.state = ContainerRecord::State::Running;
    record.startedAt = nowNanos();
    commit(container, std::move(record));
    reachStage("start.committed", container->record->id);
    container->operations.release();
    return done({});
  }
  // A failed start leaves an ended container with its reason, never a vanished one.
  logFailure(Level::Warning, started.error(), {{"CONTAINER_ID", record.id}}, "container not started");
  record.state = ContainerRecord::State::Exited;
  record.startedAt = record.finishedAt = nowNanos();
  record.exitCode = 128;
  record.reason = "StartError";
  record.message = started.error().text();
  record.pid = 0;
  commit(container, std::move(record));
  releaseAfterExit(container);
  done(std::move(started));
}

// Called with the container's queue held, once it has ended: gives back what only a living container needs.
void CoreImpl::releaseAfterExit(const ContainerPointer& container, DoneCallback done) {
  unwatchOom(container);
  if (container->monitor) strand_->unwatch(container->monitor.get());
  container->monitor.reset();
  if (container->server) strand_->unwatch(container->server.get());
  container->server.reset();
  container->process.reset();
  if (auto stop = std::exchange(container->stop, std::nullopt)) {
    strand_->cancel(stop->timer);
    for (const auto& waiter : stop->waiters) waiter({});
  }
  background<Status>(
      [this, record = container->record, handler = handlerOf(*container->record)] {
        Status first;
        auto note = [&](Status status) {
          if (status) return;
          logFailure(Level::Warning, status.error(), {{"CONTAINER_ID", record->id}});
          if (first) first = std::move(status);
        };
        note(runtime_->remove(record->id, handler));
        reachStage("exit.deleted", record->id);
        note(storage_->unmountContainer(record->id));
        note(node_.removeCgroup(record->cgroup));
        return first;
      },
      [container, done = std::move(done)](Status status) {
        if (done) done(std::move(status));
        container->operations.release();
      });
}

void CoreImpl::removeContainer(const std::string& key, DoneCallback done) {
  post([this, key, done = std::move(done)]() mutable {
    auto record = snapshot()->container(key);
    if (!record)
      return done(record.error().code() == Code::NoSuchContainer ? Status() : Status(std::move(record).error()));
    removeContainerEntity(containers_.at((*record)->id), std::move(done));
  });
}

void CoreImpl::removeContainerEntity(const ContainerPointer& container, DoneCallback done) {
  stopEntity(container, std::chrono::milliseconds(0),
             [this, container, done = std::move(done)](Status stopped) mutable {
               if (!stopped) return done(std::move(stopped));
               container->operations.acquire([this, container, done = std::move(done)]() mutable {
                 if (container->removed) {
                   container->operations.release();
                   return done({});
                 }
                 background<Status>(
                     [this, record = container->record]() -> Status {
                       ::unlink((parts_.paths.exits() + "/" + record->id).c_str());
                       reachStage("remove.begun", record->id);
                       USERPOD_CHECK(storage_->removeContainer(record->id));
                       reachStage("remove.storage", record->id);
                       return removeTree(parts_.paths.containerDirectory(record->id));
                     },
                     [this, container, done = std::move(done)](Status status) {
                       if (status) forget(container);
                       reachStage("remove.forgotten", container->record->id);
                       container->operations.release();
                       done(std::move(status));
                     });
               });
             });
}

std::string CoreImpl::containerSpec(const std::string& id) const {
  auto spec = readFile(parts_.paths.containerDirectory(id) + "/config.json", 8U << 20);
  return spec ? *spec : "";
}

}  // namespace userpod::core

// Changing what lives: a container's limits, and the file that its output goes to.
#include "daemon/core/core_impl.hpp"
#include "daemon/sys/stage.hpp"

namespace userpod::core {

// Runs the operation with the queue of a created or running container held; `done` releases it.
void CoreImpl::withLiving(const std::string& key, DoneCallback done,
                          std::function<void(const ContainerPointer&, DoneCallback)> operation) {
  post([this, key, done = std::move(done), operation = std::move(operation)]() mutable {
    auto record = snapshot()->container(key);
    if (!record) return done(std::move(record).error());
    ContainerPointer container = containers_.at((*record)->id);
    container->operations.acquire([container, done = std::move(done), operation = std::move(operation)]() mutable {
      auto finish = [container, done = std::move(done)](Status status) {
        container->operations.release();
        done(std::move(status));
      };
      const ContainerRecord& current = *container->record;
      bool living =
          current.state == ContainerRecord::State::Created || current.state == ContainerRecord::State::Running;
      if (container->removed || !living || container->exitSeen)
        return finish(Error(Code::InvalidState, "container " + current.id + " is not created or running"));
      operation(container, std::move(finish));
    });
  });
}

void CoreImpl::updateContainer(const std::string& key, Resources wanted, DoneCallback done) {
  auto change = [this, wanted = std::move(wanted)](const ContainerPointer& container, DoneCallback finish) {
    background<Result<Resources>>(
        [this, record = container->record, wanted] {
          return oci::updateResources(node_, record->cgroup, record->config.resources.value_or(Resources()), wanted);
        },
        [this, container, finish = std::move(finish)](Result<Resources> enforced) {
          if (!enforced) return finish(std::move(enforced).error());
          reachStage("update.written", container->record->id);
          ContainerRecord record = *container->record;
          record.config.resources = std::move(*enforced);
          commit(container, std::move(record));
          finish({});
        });
  };
  withLiving(key, std::move(done), std::move(change));
}

void CoreImpl::reopenContainerLog(const std::string& key, DoneCallback done) {
  withLiving(key, std::move(done), [this](const ContainerPointer& container, DoneCallback finish) {
    const ContainerRecord& record = *container->record;
    if (record.logPath.empty())
      return finish(Error(Code::InvalidState, "container " + record.id + " was made without log_path: it has no log"));
    background<Status>([bundle = parts_.paths.containerDirectory(record.id),
                        path = record.logPath] { return oci::reopenLog(bundle, path); },
                       std::move(finish));
  });
}

}  // namespace userpod::core

// Kills for want of memory in containers that go on: counted as they happen, and told on the bus.
#include <cerrno>

#include "daemon/core/core_impl.hpp"
#include "daemon/sys/log.hpp"

namespace userpod::core {

void CoreImpl::watchOom(const ContainerPointer& container) {
  std::weak_ptr<ContainerEntity> weak = container;
  auto watch = watches_->add(node_.cgroupRoot + container->record->cgroup + "/memory.events", IN_MODIFY,
                             [this, weak](const std::string&) {
                               if (auto locked = weak.lock()) countOom(locked);
                             });
  if (watch) {
    container->oomWatch = *watch;
    countOom(container);                            // what came before the watch
  } else if (watch.error().sysErrno() != ENOENT) {  // ENOENT: the memory controller is not delegated
    logFailure(Level::Warning, watch.error(), {{"CONTAINER_ID", container->record->id}});
  }
}

void CoreImpl::unwatchOom(const ContainerPointer& container) {
  if (container->oomWatch >= 0) watches_->remove(std::exchange(container->oomWatch, -1));
}

void CoreImpl::countOom(const ContainerPointer& container) {
  auto kills = oci::oomKills(node_, container->record->cgroup);
  if (container->removed || kills <= container->record->oomKills) return;
  ContainerRecord record = *container->record;
  record.oomKills = kills;
  logMessage(Level::Notice, "a process of the container was killed for want of memory", {{"CONTAINER_ID", record.id}});
  commit(container, std::move(record));
}

}  // namespace userpod::core

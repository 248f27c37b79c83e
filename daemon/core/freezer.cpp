// Pausing containers by the freezer of their cgroups. Execs are in cgroups below, and frozen with them.
// facts: kernel Documentation/admin-guide/cgroup-v2.rst, cgroup.freeze and cgroup.events.
#include <poll.h>

#include <cerrno>

#include "daemon/core/core_impl.hpp"
#include "daemon/sys/log.hpp"
#include "daemon/sys/stage.hpp"
#include "daemon/sys/util.hpp"

namespace userpod::core {
namespace {

// A process in the kernel is frozen when it comes back from there: mostly at once.
constexpr int kFreezeMillis = 2000;
constexpr int kStepMillis = 5;

Status freeze(const std::string& cgroup, bool frozen) {
  auto written = writeFile(cgroup + "/cgroup.freeze", frozen ? "1" : "0");
  if (!written && written.error().sysErrno() == ENOENT)
    return Error(Code::NotSupported, "the kernel has no freezer for cgroups: Linux 5.2 has");
  return written;
}

Status freezeAndWait(const std::string& cgroup) {
  USERPOD_CHECK(freeze(cgroup, true));
  for (int waited = 0; waited < kFreezeMillis; waited += kStepMillis) {
    USERPOD_TRY(events, readFile(cgroup + "/cgroup.events", 4096));
    if (events.find("frozen 1") != std::string::npos) return {};
    ::poll(nullptr, 0, kStepMillis);
  }
  USERPOD_CHECK(freeze(cgroup, false));
  return Error(Code::Timeout,
               "a process of the container waits in the kernel, for a disk or a server, and cannot be "
               "paused; try again later");
}

}  // namespace

void CoreImpl::pauseContainer(const std::string& key, DoneCallback done) {
  setPaused(key, true, std::move(done));
}

void CoreImpl::resumeContainer(const std::string& key, DoneCallback done) {
  setPaused(key, false, std::move(done));
}

void CoreImpl::setPaused(const std::string& key, bool paused, DoneCallback done) {
  withLiving(key, std::move(done), [this, paused](const ContainerPointer& container, DoneCallback finish) {
    const ContainerRecord& record = *container->record;
    if (record.state != ContainerRecord::State::Running || container->stop)
      return finish(Error(Code::InvalidState, "container " + record.id +
                                                  (container->stop ? " is being stopped" : " has not been started")));
    if (record.paused == paused) return finish({});
    background<Status>([cgroup = node_.cgroupRoot + record.cgroup,
                        paused] { return paused ? freezeAndWait(cgroup) : freeze(cgroup, false); },
                       [this, container, paused, finish = std::move(finish)](Status changed) {
                         if (!changed) return finish(std::move(changed));
                         if (paused)
                           reachStage("pause.frozen", container->record->id);
                         else
                           reachStage("resume.thawed", container->record->id);
                         ContainerRecord record = *container->record;
                         record.paused = paused;
                         commit(container, std::move(record));
                         finish({});
                       });
  });
}

// A frozen process does not see its stop signal.
void CoreImpl::thawForStop(const ContainerPointer& container) {
  if (!container->record->paused) return;
  ContainerRecord record = *container->record;
  if (auto thawed = freeze(node_.cgroupRoot + record.cgroup, false); !thawed)
    logFailure(Level::Warning, thawed.error(), {{"CONTAINER_ID", record.id}});
  record.paused = false;
  commit(container, std::move(record));
}

bool CoreImpl::isPaused(const ContainerRecord& record) const {
  auto frozen = readFile(node_.cgroupRoot + record.cgroup + "/cgroup.freeze", 16);
  return frozen && trim(*frozen) == "1";
}

}  // namespace userpod::core

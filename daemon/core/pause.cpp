// The process that keeps a pod's shared PID namespace: while it lives the pod is whole.
#include "daemon/core/core_impl.hpp"
#include "daemon/sys/log.hpp"

namespace userpod::core {

void CoreImpl::watchPause(const PodPointer& pod, UniqueFd pause) {
  if (!pause) return;
  pod->pause = std::move(pause);
  std::weak_ptr<PodEntity> weak = pod;
  auto watched = strand_->watch(pod->pause.get(), EPOLLIN, [this, weak](std::uint32_t) {
    if (auto locked = weak.lock()) pauseEnded(locked);
  });
  if (!watched) logFailure(Level::Warning, watched.error(), {{"POD_ID", pod->record->id}});
}

void CoreImpl::unwatchPause(const PodPointer& pod) {
  if (pod->pause) strand_->unwatch(pod->pause.get());
  pod->pause.reset();
}

// After a daemon's start. That it ended meanwhile is told like an end now.
void CoreImpl::adoptPause(const PodPointer& pod) {
  const PodRecord& record = *pod->record;
  auto start = processStartTime(record.pausePid);
  auto pause = openPidfd(record.pausePid);
  if (start && *start == record.pauseStart && pause) return watchPause(pod, std::move(*pause));
  post([this, pod] { pauseEnded(pod); });
}

// With the first process of a PID namespace all others in it have ended: the pod is over, and so are those of its
// containers that had a namespace of their own.
void CoreImpl::pauseEnded(const PodPointer& pod) {
  unwatchPause(pod);
  if (pod->removed || pod->stopping) return;
  logMessage(Level::Error, "the process that kept the pod's PID namespace has ended: the pod is stopped",
             {{"POD_ID", pod->record->id}});
  stopPodEntity(pod, kPodStopGrace, [](const Status&) {});
}

}  // namespace userpod::core

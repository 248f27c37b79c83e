// What happened to containers and pods, told to whoever follows it.
#include <future>

#include "daemon/core/core_impl.hpp"
#include "daemon/sys/util.hpp"

namespace userpod::core {
namespace {

constexpr std::size_t kMaxLate = 1000;

}  // namespace

void CoreImpl::subscribeEvents(std::function<void(const Event&)> listener) {
  post([this, listener = std::move(listener)]() mutable {
    for (auto& event : std::exchange(lateEvents_, {})) {
      event.late = true;
      listener(event);
    }
    eventListeners_.push_back(std::move(listener));
  });
}

void CoreImpl::leaveEnds() {
  std::promise<void> done;
  post([&] {
    leavingEnds_ = true;
    done.set_value();
  });
  done.get_future().wait();
}

void CoreImpl::emit(Event::Kind kind, const std::string& id, Origin origin, const PodPointer& pod) {
  lastEvent_ = std::max(lastEvent_ + 1, nowNanos());
  Event event{kind, id, origin, lastEvent_, false, pod->record, {}};
  for (const auto& container : pod->containers)
    if (auto found = containers_.find(container); found != containers_.end())
      event.containers.push_back(found->second->record);
  for (const auto& listener : eventListeners_) listener(event);
  if (!eventListeners_.empty()) return;
  if (lateEvents_.size() == kMaxLate) lateEvents_.pop_front();
  lateEvents_.push_back(std::move(event));
}

// A record may be written many times in one state; an event is a step from one to the next.
void CoreImpl::emitStep(PodRecord::State before, const PodPointer& pod) {
  using State = PodRecord::State;
  const PodRecord& record = *pod->record;
  if (before == record.state) return;
  if (record.state == State::Ready) {
    emit(Event::Kind::Created, record.id, record.origin, pod);
    emit(Event::Kind::Started, record.id, record.origin, pod);
  } else if (record.state == State::NotReady) {
    emit(Event::Kind::Stopped, record.id, record.origin, pod);
  }
}

void CoreImpl::emitStep(ContainerRecord::State before, const ContainerPointer& container) {
  using State = ContainerRecord::State;
  const ContainerRecord& record = *container->record;
  auto pod = pods_.find(record.podId);
  if (before == record.state || pod == pods_.end()) return;
  if (record.state == State::Created) emit(Event::Kind::Created, record.id, record.origin, pod->second);
  if (record.state == State::Running) emit(Event::Kind::Started, record.id, record.origin, pod->second);
  if (record.state == State::Exited) emit(Event::Kind::Stopped, record.id, record.origin, pod->second);
}

// What never came to be is not deleted either.
void CoreImpl::emitEnd(const PodPointer& pod) {
  const PodRecord& record = *pod->record;
  if (record.state != PodRecord::State::Creating) emit(Event::Kind::Deleted, record.id, record.origin, pod);
}

void CoreImpl::emitEnd(const ContainerPointer& container) {
  const ContainerRecord& record = *container->record;
  auto pod = pods_.find(record.podId);
  if (record.state == ContainerRecord::State::Creating || pod == pods_.end()) return;
  emit(Event::Kind::Deleted, record.id, record.origin, pod->second);
}

}  // namespace userpod::core

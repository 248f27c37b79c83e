// What happened to containers and pods, told to whoever follows it.
#include "daemon/core/core_impl.hpp"
#include "daemon/sys/util.hpp"

namespace userpod::core {

void CoreImpl::subscribeEvents(std::function<void(const Event&)> listener) {
  post([this, listener = std::move(listener)]() mutable { eventListeners_.push_back(std::move(listener)); });
}

void CoreImpl::emit(Event::Kind kind, const std::string& id, const PodPointer& pod) {
  if (eventListeners_.empty()) return;
  Event event{kind, id, nowNanos(), pod->record, {}};
  for (const auto& container : pod->containers)
    if (auto found = containers_.find(container); found != containers_.end())
      event.containers.push_back(found->second->record);
  for (const auto& listener : eventListeners_) listener(event);
}

}  // namespace userpod::core

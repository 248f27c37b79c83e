#include "dbus/replies.hpp"

#include "daemon/sys/log.hpp"

namespace userpod::bus {

void attempt(std::string_view what, const std::function<void()>& action) {
  try {
    action();
  } catch (const sdbus::Error& error) {
    logWarning("bus: cannot {}: {}", what, error.what());
  }
}

void Courier::post(std::function<void()> task) {
  send([self = shared_from_this(), task = std::move(task)] {
    task();
    if (std::exchange(self->afterDue_, true)) return;
    self->send([self] {
      self->afterDue_ = false;
      self->after_();
    });
  });
}

void Courier::send(std::function<void()> task) {
  std::lock_guard lock(mutex_);
  if (loop_ != nullptr) loop_->post(std::move(task));
}

void Courier::close() {
  std::lock_guard lock(mutex_);
  loop_ = nullptr;
}

}  // namespace userpod::bus

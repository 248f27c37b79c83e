#include "daemon/sys/watches.hpp"

#include <unistd.h>

#include <array>
#include <vector>

namespace userpod {

Result<std::unique_ptr<Watches>> Watches::start(EventLoop& loop) {
  std::unique_ptr<Watches> watches(new Watches());
  watches->inotify_.reset(::inotify_init1(IN_CLOEXEC | IN_NONBLOCK));
  if (!watches->inotify_)
    return sysError("inotify (see fs.inotify.max_user_instances; `userpodctl doctor` names the mend)");
  USERPOD_CHECK(loop.watch(watches->inotify_.get(), EPOLLIN, [raw = watches.get()](std::uint32_t) { raw->read(); }));
  return watches;
}

Result<Watches::Id> Watches::add(const std::string& path, std::uint32_t mask, Callback callback) {
  // Without IN_MASK_CREATE a second watch would silently take the place of the first.
  Id id = ::inotify_add_watch(inotify_.get(), path.c_str(), mask | IN_MASK_CREATE);
  if (id < 0) return sysError("watch " + path);
  callbacks_[id] = std::make_shared<Callback>(std::move(callback));
  return id;
}

void Watches::remove(Id id) {
  if (callbacks_.erase(id) > 0) (void)::inotify_rm_watch(inotify_.get(), id);
}

void Watches::deliver(Id id, const std::string& name) {
  auto found = callbacks_.find(id);
  if (found == callbacks_.end()) return;  // removed since
  auto callback = found->second;          // kept alive: it may remove itself
  (*callback)(name);
}

void Watches::read() {
  alignas(inotify_event) std::array<char, 16384> buffer{};
  for (;;) {
    ssize_t count = ::read(inotify_.get(), buffer.data(), buffer.size());
    if (count <= 0) return;
    for (ssize_t at = 0; at < count;) {
      const auto* event = reinterpret_cast<const inotify_event*>(buffer.data() + at);
      at += static_cast<ssize_t>(sizeof(inotify_event) + event->len);
      if ((event->mask & IN_Q_OVERFLOW) != 0) {
        std::vector<Id> all;
        for (const auto& [id, callback] : callbacks_) all.push_back(id);
        for (Id id : all) deliver(id, "");
      } else if ((event->mask & IN_IGNORED) != 0) {
        callbacks_.erase(event->wd);
      } else {
        deliver(event->wd, event->len > 0 ? event->name : "");
      }
    }
  }
}

}  // namespace userpod

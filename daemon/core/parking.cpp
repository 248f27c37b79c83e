#include "daemon/core/parking.hpp"

#include <sys/socket.h>

#include <cerrno>

#include "daemon/sys/log.hpp"

namespace userpod::core {
namespace {

// More than a socket's buffer can hold: what comes afterwards is new.
constexpr int kPackets = 1024;

// False at the end of the stream.
bool drained(int socket) {
  for (int i = 0; i < kPackets; ++i) {
    char first = 0;  // the packet's rest is dropped
    ssize_t count = ::recv(socket, &first, 1, MSG_DONTWAIT);
    if (count == 0) return false;
    if (count < 0 && errno != EINTR) return errno == EAGAIN;
  }
  return true;
}

}  // namespace

void Parking::shutdown() {
  if (loop_) loop_->shutdown();
}

void Parking::park(const std::string& containerId, UniqueFd socket) {
  if (!loop_) {
    auto loop = EventLoop::start("parking");
    if (!loop)
      return logWarning("container {}: a connection to its monitor is closed: {}", ofContainer(containerId),
                        loop.error());
    loop_ = std::move(*loop);
  }
  auto owned = std::make_shared<UniqueFd>(std::move(socket));
  loop_->post([this, containerId, owned] {
    int number = owned->get();
    auto watched = loop_->watch(number, EPOLLIN, [this, number](std::uint32_t) {
      if (!drained(number)) drop(number);
    });
    if (!watched)
      return logWarning("container {}: a connection to its monitor is closed: {}", ofContainer(containerId),
                        watched.error());
    parked_[number] = {containerId, std::move(*owned)};
  });
}

void Parking::take(const std::string& containerId, std::function<void(UniqueFd)> done) {
  if (!loop_) return done(UniqueFd());
  loop_->post([this, containerId, done = std::move(done)] {
    for (auto entry = parked_.begin(); entry != parked_.end();) {
      auto current = entry++;
      if (current->second.containerId != containerId) continue;
      UniqueFd socket = std::move(current->second.socket);
      drop(current->first);
      if (drained(socket.get())) return done(std::move(socket));
    }
    done(UniqueFd());
  });
}

void Parking::drop(int socket) {
  loop_->unwatch(socket);
  parked_.erase(socket);
}

}  // namespace userpod::core

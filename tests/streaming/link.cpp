#include "tests/streaming/link.hpp"

#include <poll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cstring>
#include <vector>

namespace userpod::streamtest {
namespace {

constexpr std::size_t kRead = 256 << 10;
constexpr int kSendTime = 30'000;  // ms

}  // namespace

SocketLink::SocketLink(UniqueFd socket) : socket_(std::move(socket)), wake_(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) {}

void SocketLink::start(Receiver& receiver, std::string first) {
  thread_ = std::thread([this, &receiver, first = std::move(first)] { run(receiver, first); });
}

void SocketLink::run(Receiver& receiver, const std::string& first) {
  if (!first.empty()) receiver.receive(first);
  std::vector<char> buffer(kRead);
  std::string why;
  while (!stopped_) {
    pollfd ready[2] = {{wake_.get(), POLLIN, 0}, {paused_ ? -1 : socket_.get(), POLLIN, 0}};
    if (::poll(ready, 2, -1) < 0 && errno != EINTR) break;
    if (ready[0].revents != 0) {
      std::uint64_t count = 0;
      (void)!::read(wake_.get(), &count, sizeof count);
    }
    if (ready[1].revents == 0) continue;
    auto got = ::recv(socket_.get(), buffer.data(), buffer.size(), MSG_DONTWAIT);
    if (got < 0 && (errno == EAGAIN || errno == EINTR)) continue;
    if (got < 0) why = std::strerror(errno);
    if (got <= 0) break;
    receiver.receive({buffer.data(), static_cast<std::size_t>(got)});
  }
  // As clients do when the server has ended.
  if (!stopped_ && !stays_) ::shutdown(socket_.get(), SHUT_RDWR);
  receiver.ended(stopped_ ? "dropped" : why);
}

void SocketLink::wake() {
  std::uint64_t one = 1;
  (void)!::write(wake_.get(), &one, sizeof one);
}

void SocketLink::sendLocked(std::string_view bytes) {
  while (!bytes.empty()) {
    auto sent = ::send(socket_.get(), bytes.data(), bytes.size(), MSG_NOSIGNAL | MSG_DONTWAIT);
    if (sent > 0) {
      bytes.remove_prefix(static_cast<std::size_t>(sent));
      continue;
    }
    if (errno == EINTR) continue;
    if (errno != EAGAIN) throw Lost(std::string("send: ") + std::strerror(errno));
    pollfd room{socket_.get(), POLLOUT, 0};
    if (::poll(&room, 1, kSendTime) == 0) throw Lost("send: the server takes nothing for 30 s");
  }
}

void SocketLink::send(std::string_view head, std::string_view body) {
  std::lock_guard lock(sending_);
  std::string text;
  {
    std::lock_guard offering(offering_);
    text.swap(offered_);
  }
  text += head;
  if (body.size() < 1024) text += body;
  sendLocked(text);
  if (body.size() >= 1024) sendLocked(body);
}

void SocketLink::offer(std::string_view bytes) {
  std::unique_lock sending(sending_, std::try_to_lock);
  std::lock_guard offering(offering_);
  offered_ += bytes;
  if (!sending) return;
  auto sent = ::send(socket_.get(), offered_.data(), offered_.size(), MSG_NOSIGNAL | MSG_DONTWAIT);
  if (sent > 0) offered_.erase(0, static_cast<std::size_t>(sent));
}

void SocketLink::pause(bool paused) {
  paused_ = paused;
  wake();
}

void SocketLink::endOutput() {
  std::lock_guard lock(sending_);
  ::shutdown(socket_.get(), SHUT_WR);
}

void SocketLink::drop(Drop how) {
  if (stopped_.exchange(true)) return;
  wake();
  if (thread_.joinable()) thread_.join();
  std::lock_guard lock(sending_);
  if (how == Drop::Reset) {
    linger now{1, 0};
    ::setsockopt(socket_.get(), SOL_SOCKET, SO_LINGER, &now, sizeof now);
  }
  socket_.reset();
}

}  // namespace userpod::streamtest

#include "daemon/streaming/pump.hpp"

#include <poll.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <cerrno>

namespace userpod::streaming {
namespace {

constexpr std::size_t kTerminalBuffers = 128 << 10;  // above what the kernel keeps; it counts a part of them only

std::array<char, kChunk>& scratch() {
  static std::array<char, kChunk> buffer;
  return buffer;
}

}  // namespace

std::shared_ptr<Descriptor> watched(asio::io_context& io, UniqueFd fd) {
  auto descriptor = std::make_shared<Descriptor>(io);
  ErrorCode ignored;
  descriptor->assign(fd.get(), ignored);
  if (!ignored) (void)fd.release();
  return descriptor;
}

Pump::Pump(std::shared_ptr<Descriptor> from, Connection& to, StreamId id, std::function<void()> done)
    : from_(std::move(from)), to_(to), id_(id), done_(std::move(done)) {}

std::shared_ptr<Descriptor> Pump::stop() {
  *alive_ = false;
  return std::move(from_);
}

// The operation does not own the descriptor: without an owner it closes, and the operation with it.
void Pump::wait() {
  from_->async_wait(Descriptor::wait_read, [this, alive = alive_](ErrorCode error) {
    if (!*alive) return;
    if (error) return finish();
    move();
  });
}

void Pump::flushed() {
  if (from_ && std::exchange(blocked_, false)) move();
}

void Pump::move() {
  for (int i = 0; i < kMovesAtOnce; ++i) {
    if (!to_.ready()) {
      blocked_ = true;
      return;
    }
    ssize_t count = ::read(from_->native_handle(), scratch().data(), scratch().size());
    if (count < 0 && errno == EINTR) continue;
    if (count < 0 && errno == EAGAIN && !cut_) break;
    if (count <= 0) return finish();  // a terminal without a process: EIO
    auto size = static_cast<std::size_t>(count);
    to_.send(id_, {scratch().data(), size});
    owed_ -= std::min(owed_, size);
    if (cut_ && owed_ == 0) return finish();
  }
  if (cut_ && owed_ == 0) return finish();
  wait();
}

void Pump::noteOwed(bool terminal) {
  int size = 0;
  if (terminal)
    owed_ = kTerminalBuffers;
  else if (from_ && ::ioctl(from_->native_handle(), FIONREAD, &size) == 0)
    owed_ = static_cast<std::size_t>(size);
}

void Pump::cut() {
  cut_ = true;
  if (!from_) return;
  pollfd entry{from_->native_handle(), POLLIN, 0};
  if (owed_ == 0 || (!blocked_ && ::poll(&entry, 1, 0) == 0)) finish();
}

void Pump::finish() {
  auto done = std::move(done_);
  stop();
  done();  // may end this object
}

void Feeder::start(std::shared_ptr<Descriptor> to) {
  to_ = std::move(to);
  write();
}

void Feeder::take(std::string_view bytes) {
  if (stopped_ || ended_) return;
  if (to_ && waiting_.empty() && !put(bytes)) return stop();
  if (bytes.empty()) return;
  waiting_ += bytes;
  // Before the start the rest of the session's streams may still be to come.
  bool hold = to_ || waiting_.size() > kChunk;
  if (hold && !std::exchange(holding_, true)) from_.hold();
  if (to_) write();
}

bool Feeder::put(std::string_view& bytes) {
  while (!bytes.empty()) {
    ssize_t count = ::write(to_->native_handle(), bytes.data(), std::min(bytes.size(), atOnce_));
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) return errno == EAGAIN;
    bytes.remove_prefix(static_cast<std::size_t>(count));
  }
  return true;
}

void Feeder::end() {
  if (stopped_ || ended_) return;
  ended_ = true;
  if (to_ && waiting_.empty()) finish();
}

void Feeder::write() {
  if (waiting_.empty()) {
    if (ended_) finish();
    return;
  }
  if (writing_) return;
  writing_ = true;
  to_->async_wait(Descriptor::wait_write, [this, alive = alive_](ErrorCode error) {
    if (!*alive) return;
    writing_ = false;
    if (stopped_) return;
    if (error) return stop();
    std::string_view rest = waiting_;
    if (!put(rest)) return stop();
    waiting_.erase(0, waiting_.size() - rest.size());
    if (!waiting_.empty()) return write();
    waiting_ = std::string();
    if (ended_) finish();
    if (std::exchange(holding_, false)) from_.release();
  });
}

void Feeder::finish() {
  if (end_ == End::HalfClose) ::shutdown(to_->native_handle(), SHUT_WR);
  stopped_ = true;
  to_.reset();  // End::Close: the last owner closes
}

void Feeder::stop() {
  stopped_ = true;
  waiting_ = std::string();
  to_.reset();
  if (std::exchange(holding_, false)) from_.release();
}

}  // namespace userpod::streaming

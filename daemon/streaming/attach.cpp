#include "daemon/streaming/attach.hpp"

#include <sys/socket.h>

#include <cerrno>

namespace userpod::streaming {
namespace {

constexpr std::chrono::seconds kPatience{10};
constexpr std::chrono::milliseconds kReplyTime{100};  // for what the container says to the last of its input
constexpr std::size_t kPacket = 8 << 10;              // of stdin
constexpr std::size_t kLargestPacket = 1 + (32 << 10);
constexpr char kStdoutPacket = 2;

}  // namespace

AttachSession::AttachSession(SessionContext context, Attach attach)
    : RemoteCommand(std::move(context),
                    {attach.request.in, attach.request.out, attach.request.err, attach.request.tty}),
      attach_(std::move(attach)),
      stdin_(*connection_, Feeder::End::HalfClose, kPacket) {}

void AttachSession::begin() {
  auto gone = [&core = core_, id = attach_.containerId, in = attach_.request.in](Result<oci::Attachment> attachment) {
    if (attachment) core.detach(id, std::move(attachment->socket), in);  // the client has gone meanwhile
  };
  core_.attach(attach_.containerId, attach_.request.tty,
               onLoop([this](Result<oci::Attachment> attachment) { attached(std::move(attachment)); }, gone));
}

void AttachSession::attached(Result<oci::Attachment> attachment) {
  if (!attachment) return finish(std::move(attachment).error());
  attachment_ = std::move(*attachment);
  monitor_ = watched(io_, std::move(attachment_.socket));
  if (attachment_.in && attach_.request.in) {
    stdin_.start(monitor_);
  } else {
    stdin_.stop();
  }
  if (size().columns != 0) resized(size());
  if (inputEnded_) endInput();
  wait();
}

void AttachSession::stdinEnded() {
  inputEnded_ = true;
  if (monitor_) endInput();
}

void AttachSession::endInput() {
  if (!attachment_.in || attachment_.tty) return;
  if (attachment_.stdinOnce) return stdin_.end();
  timer_.expires_after(kReplyTime);
  timer_.async_wait([this, weak = weak_from_this()](ErrorCode error) {
    auto self = weak.lock();
    if (error || !self || finished() || !monitor_) return;
    if (!stdin_.idle()) return endInput();  // the container is still to read it
    detach();
    finish(0);
  });
}

// One after the other, as the last of them is the one that counts.
void AttachSession::resized(oci::TerminalSize size) {
  if (!monitor_) return;
  if (resizing_) {
    resizeAgain_ = true;
    return;
  }
  resizing_ = true;
  core_.resizeTerminal(attach_.containerId, size, onLoop([this](const Status&) {
                         resizing_ = false;
                         if (std::exchange(resizeAgain_, false)) resized(this->size());
                       }));
}

void AttachSession::wait() {
  monitor_->async_wait(Descriptor::wait_read, [this, weak = weak_from_this()](ErrorCode error) {
    auto self = weak.lock();
    if (self && !error && monitor_) read();
  });
}

void AttachSession::flushed() {
  if (monitor_ && std::exchange(blocked_, false)) read();
}

void AttachSession::read() {
  std::array<char, kLargestPacket> packet;  // not cleared
  for (int i = 0; i < kMovesAtOnce; ++i) {
    if (!connection_->ready()) {
      blocked_ = true;
      return;
    }
    ssize_t count = ::recv(monitor_->native_handle(), packet.data(), packet.size(), MSG_DONTWAIT);
    if (count < 0 && errno == EINTR) continue;
    if (count < 0 && errno == EAGAIN) break;
    if (count <= 0) {  // the container has ended
      detach();
      return finish(0);
    }
    Kind kind = packet[0] == kStdoutPacket ? kStdout : kStderr;
    bool wanted = kind == kStdout ? attach_.request.out : attach_.request.err;
    if (wanted) connection_->send(stream(kind), {packet.data() + 1, static_cast<std::size_t>(count - 1)});
  }
  wait();
}

void AttachSession::detach() {
  bool input = attachment_.in && attach_.request.in;
  stdin_.stop();
  auto monitor = std::exchange(monitor_, nullptr);
  if (!monitor) return;
  ErrorCode ignored;
  monitor->cancel(ignored);
  core_.detach(attach_.containerId, UniqueFd(monitor->release()), input);
}

void AttachSession::check(Clock::time_point now) {
  if (monitor_ && now - connection_->stalledSince() > kPatience)
    return fail("the client reads nothing, and the container waits for it");
  RemoteCommand::check(now);
}

}  // namespace userpod::streaming

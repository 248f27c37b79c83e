#include "daemon/streaming/socket_stream.hpp"

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <sys/uio.h>

#include <array>
#include <cerrno>

namespace userpod::streaming {
namespace {

// For the client's end after ours: data that it still sends would turn a plain close into a reset, and that would take
// what we sent last from it.
constexpr std::chrono::seconds kLinger{5};

// For all connections, as one thread has them: what is read is passed on before the next read. Not of a thread: each of
// the daemon's would have its own.
std::array<char, kChunk>& readBuffer() {
  static std::array<char, kChunk> buffer;
  return buffer;
}

}  // namespace

bool peerHasClosed(int socket) {
  tcp_info info{};
  socklen_t size = sizeof(info);
  if (::getsockopt(socket, IPPROTO_TCP, TCP_INFO, &info, &size) < 0) return true;
  return info.tcpi_state != TCP_ESTABLISHED;
}

SocketStream::SocketStream(Socket socket, std::string received)
    : socket_(std::move(socket)), linger_(socket_.get_executor()), early_(std::move(received)) {}

SocketStream::~SocketStream() {
  *alive_ = false;
}

void SocketStream::start(Listener& listener) {
  listener_ = &listener;
  if (early_.empty()) return read();
  asio::post(socket_.get_executor(), [this, alive = alive_] {
    if (!*alive || over_) return;
    std::string early = std::exchange(early_, {});
    listener_->received(early);
    if (*alive) read();
  });
}

void SocketStream::read() {
  if (reading_ || held() || over_ || listener_ == nullptr) return;
  reading_ = true;
  socket_.async_wait(Socket::wait_read, [this, alive = alive_](ErrorCode error) {
    if (!*alive) return;
    reading_ = false;
    if (over_ || error) return;
    readSome();
  });
}

void SocketStream::readSome() {
  auto alive = alive_;
  for (int i = 0; i < kMovesAtOnce && !held(); ++i) {
    ssize_t count = ::recv(socket_.native_handle(), readBuffer().data(), readBuffer().size(), MSG_DONTWAIT);
    if (count < 0 && errno == EINTR) continue;
    if (count < 0 && errno == EAGAIN) break;
    if (count <= 0) return over();
    if (closing_) continue;  // thrown away
    lastUse_ = Clock::now();
    listener_->received({readBuffer().data(), static_cast<std::size_t>(count)});
    if (!*alive || over_) return;
    if (static_cast<std::size_t>(count) < readBuffer().size()) break;
  }
  read();
}

void SocketStream::release() {
  if (--holds_ == 0) read();
}

void SocketStream::write(std::string_view head, std::string_view body) {
  if (over_ || closing_) return;
  if (!pending_.empty()) {
    pending_.append(head).append(body);
    return;
  }
  std::array<iovec, 2> parts{iovec{const_cast<char*>(head.data()), head.size()},
                             iovec{const_cast<char*>(body.data()), body.size()}};
  msghdr message{};
  message.msg_iov = parts.data();
  message.msg_iovlen = parts.size();
  ssize_t count = ::sendmsg(socket_.native_handle(), &message, MSG_DONTWAIT | MSG_NOSIGNAL);
  lastWrite_ = Clock::now();
  if (count < 0 && errno != EAGAIN && errno != EINTR) return abort();
  auto done = static_cast<std::size_t>(std::max<ssize_t>(count, 0));
  if (done > 0) lastUse_ = lastWrite_;
  if (done == head.size() + body.size()) return;
  if (done < head.size()) pending_ = head.substr(done);
  pending_ += body.substr(done > head.size() ? done - head.size() : 0);
  sent_ = 0;
  flush();
}

// Waits until the socket takes more, and sends.
void SocketStream::flush() {
  if (flushing_) return;
  flushing_ = true;
  socket_.async_wait(Socket::wait_write, [this, alive = alive_](ErrorCode error) {
    if (!*alive) return;
    flushing_ = false;
    if (over_ || error) return;
    ssize_t count =
        ::send(socket_.native_handle(), pending_.data() + sent_, pending_.size() - sent_, MSG_DONTWAIT | MSG_NOSIGNAL);
    if (count < 0 && errno != EAGAIN && errno != EINTR) return over();
    if (count > 0) {
      sent_ += static_cast<std::size_t>(count);
      lastUse_ = lastWrite_ = Clock::now();
    }
    if (sent_ > kChunk) pending_.erase(0, std::exchange(sent_, 0));
    if (sent_ < pending_.size()) return flush();
    pending_ = std::string();  // the memory too
    sent_ = 0;
    if (closing_) return shutDown();
    listener_->flushed();
    if (*alive) read();
  });
}

void SocketStream::close() {
  if (over_ || closing_) return;
  closing_ = true;
  if (pending_.empty()) shutDown();
  read();
}

void SocketStream::shutDown() {
  ::shutdown(socket_.native_handle(), SHUT_WR);
  linger_.expires_after(kLinger);
  linger_.async_wait([this, alive = alive_](ErrorCode error) {
    if (*alive && !error) over();
  });
}

void SocketStream::abort() {
  if (over_) return;
  over_ = true;  // before the posted call: nothing else is heard of
  asio::post(socket_.get_executor(), [this, alive = alive_] {
    if (!*alive) return;
    over_ = false;
    over();
  });
}

void SocketStream::over() {
  if (over_) return;
  over_ = true;
  linger_.cancel();
  ErrorCode ignored;
  socket_.close(ignored);
  if (listener_ != nullptr) listener_->gone();  // may end this object
}

void SocketStream::check() {
  if (over_) return;
  if (closing_ && Clock::now() - stalledSince() > kFlushTime) return over();
  if (closing_ || reading_) return;
  if (peerHasClosed(socket_.native_handle())) over();
}

}  // namespace userpod::streaming

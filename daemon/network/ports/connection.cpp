#include "daemon/network/ports/connection.hpp"

#include <fcntl.h>
#include <sys/epoll.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

#include "daemon/sys/log.hpp"

namespace userpod::ports {
namespace {

constexpr std::size_t kCopy = 16 << 10;   // more than that at once is spliced
constexpr std::size_t kSplice = 1 << 20;  // at once
constexpr std::size_t kTurn = 4 << 20;    // bytes until others have their turn
constexpr int kAcceptAtOnce = 8;
constexpr useconds_t kNapMicroseconds = 5000;

}  // namespace

void abortOnClose(int socket) {
  const linger abort{1, 0};
  (void)::setsockopt(socket, SOL_SOCKET, SO_LINGER, &abort, sizeof abort);
}

Connection::Connection(Worker& worker, ServicePointer service, UniqueFd client, UniqueFd pod,
                       std::function<void(Connection&)> ended)
    : worker_(worker),
      service_(std::move(service)),
      client_(*this, std::move(client)),
      pod_(*this, std::move(pod)),
      ended_(std::move(ended)) {
  ++service_->counters->open;
  ++service_->counters->total;
  ++worker_.shared().connections;
}

Connection::~Connection() {
  --service_->counters->open;
  --worker_.shared().connections;
  dropBytes(up_);
  dropBytes(down_);
}

Status Connection::start() {
  constexpr std::uint32_t kEvents = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET;
  // Both sides are mostly there already, and the client's first words too: the pod has them before anything else is
  // done.
  client_.readable = client_.writable = pod_.writable = true;
  if (turn()) worker_.schedule(*this);
  if (!client_.fd) return {};
  // What was found out so far does not matter: each socket's state is told once at this.
  USERPOD_CHECK(worker_.watch(client_.fd.get(), kEvents, client_));
  return worker_.watch(pod_.fd.get(), kEvents, pod_);
}

void Connection::End::onEvents(std::uint32_t events) {
  if (!fd) return;
  // An error is met by the calls it fails, behind the bytes that came before it.
  if ((events & (EPOLLIN | EPOLLRDHUP | EPOLLHUP | EPOLLERR)) != 0) readable = true;
  if ((events & (EPOLLOUT | EPOLLHUP | EPOLLERR)) != 0) writable = true;
  if ((events & (EPOLLRDHUP | EPOLLHUP | EPOLLERR)) != 0) finished = true;
  if ((events & EPOLLERR) != 0) failed = true;
  connection.worker_.schedule(connection);
}

void Connection::reset() {
  if (!client_.fd) return;
  abortOnClose(client_.fd.get());
  abortOnClose(pod_.fd.get());
  client_.fd.reset();
  pod_.fd.reset();
  ended_(*this);
}

bool Connection::turn() {
  moved_ = 0;
  bool more = true;
  while (more && !broken_ && moved_ < kTurn) {
    more = step(up_);
    if (!broken_) more = step(down_) || more;
  }
  // A side that has reset takes nothing and says nothing more, however much the other still has for it.
  if (broken_ || (!more && (client_.failed || pod_.failed))) {
    reset();
    return false;
  }
  if (up_.closed && down_.closed) {
    client_.fd.reset();
    pod_.fd.reset();
    ended_(*this);
    return false;
  }
  return more;
}

bool Connection::step(Flow& flow) {
  if (flow.closed) return false;
  bool held = !flow.copied.empty() || flow.inPipe > 0;
  if (held) return flow.to.writable && drain(flow);
  if (!flow.ended) return flow.from.readable && flow.to.writable && fill(flow);
  flow.closed = true;
  if (::shutdown(flow.to.fd.get(), SHUT_WR) < 0) broken_ = true;
  return true;
}

bool Connection::fill(Flow& flow) {
  return flow.bulk ? splice(flow) : copy(flow);
}

bool Connection::copy(Flow& flow) {
  // Without a pipe in bulk, copies are as long as can be.
  std::size_t most = flow.bulk ? Worker::kBuffer : kCopy;
  ssize_t count = ::recv(flow.from.fd.get(), worker_.buffer(), most, 0);
  if (count < 0) return readFailed(flow);
  if (count == 0) {
    flow.ended = true;
    return true;
  }
  // Less than asked for was all there was, unless the end is behind it; what comes later is a new event.
  auto got = static_cast<std::size_t>(count);
  flow.bulk = got == most;
  if (got < most && !flow.from.finished) flow.from.readable = false;
  return send(flow, {worker_.buffer(), got});
}

bool Connection::send(Flow& flow, std::string_view bytes) {
  ssize_t count = ::send(flow.to.fd.get(), bytes.data(), bytes.size(), MSG_NOSIGNAL);
  if (count < 0 && !writeFailed()) return false;
  auto sent = static_cast<std::size_t>(std::max<ssize_t>(count, 0));
  moved_ += sent;
  if (sent < bytes.size()) {
    flow.to.writable = false;
    flow.copied.assign(bytes.substr(sent));
  } else if (!flow.copied.empty()) {
    std::string().swap(flow.copied);
  }
  return true;
}

bool Connection::splice(Flow& flow) {
  flow.pipe = worker_.takePipe();
  if (!flow.pipe) return copy(flow);
  ssize_t count = ::splice(flow.from.fd.get(), nullptr, flow.pipe->write.get(), nullptr, kSplice,
                           SPLICE_F_MOVE | SPLICE_F_NONBLOCK);
  if (count <= 0) {
    int reason = errno;
    dropBytes(flow);
    errno = reason;
    flow.bulk = false;
    if (count < 0) return readFailed(flow);
    flow.ended = true;
    return true;
  }
  flow.inPipe = static_cast<std::size_t>(count);
  flow.bulk = flow.inPipe >= kCopy;
  return drain(flow);
}

bool Connection::drain(Flow& flow) {
  if (!flow.copied.empty()) {
    std::string bytes = std::move(flow.copied);
    flow.copied.clear();
    return send(flow, bytes);
  }
  ssize_t count = ::splice(flow.pipe->read.get(), nullptr, flow.to.fd.get(), nullptr, flow.inPipe,
                           SPLICE_F_MOVE | SPLICE_F_NONBLOCK);
  if (count <= 0) {
    bool again = count < 0 && errno == EINTR;
    if (!again && writeFailed()) flow.to.writable = false;
    return again;
  }
  moved_ += static_cast<std::size_t>(count);
  flow.inPipe -= static_cast<std::size_t>(count);
  if (flow.inPipe == 0) dropBytes(flow);
  return true;
}

// Whether it only would have to wait.
bool Connection::readFailed(Flow& flow) {
  if (errno == EINTR) return true;
  if (errno == EAGAIN)
    flow.from.readable = false;
  else
    broken_ = true;
  return false;
}

bool Connection::writeFailed() {
  if (errno == EINTR || errno == EAGAIN) return true;
  broken_ = true;
  return false;
}

void Connection::dropBytes(Flow& flow) {
  if (!flow.pipe) return;
  if (flow.inPipe == 0)
    worker_.givePipe(std::move(*flow.pipe));
  else
    worker_.dropPipe(std::move(*flow.pipe));
  flow.pipe.reset();
  flow.inPipe = 0;
}

void Acceptor::onEvents(std::uint32_t) {
  for (int count = 0; count < kAcceptAtOnce; ++count) {
    Endpoint address;
    socklen_t size = Endpoint::capacity();
    UniqueFd client(::accept4(socket_, address.raw(), &size, SOCK_CLOEXEC | SOCK_NONBLOCK));
    if (client) {
      take_(std::move(client), address);
      continue;
    }
    if (errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM) {
      logWarning("{}", sysError("take a connection"));
      ::usleep(kNapMicroseconds);  // the event stays, so this would spin
    }
    if (errno != ECONNABORTED && errno != EINTR) return;
  }
}

}  // namespace userpod::ports

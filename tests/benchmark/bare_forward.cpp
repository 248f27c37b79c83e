#include "tests/benchmark/bare_forward.hpp"

#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sched.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <vector>

#include "daemon/sys/error.hpp"

namespace userpod::bench {
namespace {

constexpr std::size_t kPiece = 64 << 10;

sockaddr_in loopback(std::uint16_t port) {
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  address.sin_port = htons(port);
  return address;
}

void setNoDelay(int fd) {
  int one = 1;
  (void)::setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
}

// Until the source ends, which is handed on.
void spliceAll(int from, int to) {
  auto pipe = makePipe();
  if (!pipe) return;
  while (true) {
    ssize_t got = ::splice(from, nullptr, pipe->write.get(), nullptr, kPiece, SPLICE_F_MOVE | SPLICE_F_MORE);
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) break;
    while (got > 0) {
      ssize_t put = ::splice(pipe->read.get(), nullptr, to, nullptr, static_cast<std::size_t>(got), SPLICE_F_MOVE);
      if (put < 0 && errno == EINTR) continue;
      if (put <= 0) return;
      got -= put;
    }
  }
  ::shutdown(to, SHUT_WR);
}

}  // namespace

Result<UniqueFd> tcpSocketIn(const std::string& networkNamespace) {
  Result<UniqueFd> made = Error(Code::Internal, "not tried");
  std::thread([&] {
    if (!networkNamespace.empty()) {
      auto target = openFile(networkNamespace, O_RDONLY);
      if (!target) {
        made = std::move(target).error();
        return;
      }
      if (::setns(target->get(), CLONE_NEWNET) < 0) {
        made = sysError("join " + networkNamespace);
        return;
      }
    }
    UniqueFd fd(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    if (fd)
      made = std::move(fd);
    else
      made = sysError("socket");
  }).join();
  return made;
}

Result<UniqueFd> listenIn(const std::string& networkNamespace, std::uint16_t& port) {
  USERPOD_TRY(fd, tcpSocketIn(networkNamespace));
  auto address = loopback(0);
  socklen_t size = sizeof(address);
  if (::bind(fd.get(), reinterpret_cast<sockaddr*>(&address), size) < 0 || ::listen(fd.get(), 16) < 0 ||
      ::getsockname(fd.get(), reinterpret_cast<sockaddr*>(&address), &size) < 0)
    return sysError("listen on the loopback");
  port = ntohs(address.sin_port);
  return std::move(fd);
}

Result<std::uint16_t> freePort() {
  std::uint16_t port = 0;
  auto probe = listenIn("", port);
  if (!probe) return std::move(probe).error();
  return port;
}

Result<UniqueFd> connectIn(const std::string& networkNamespace, std::uint16_t port) {
  USERPOD_TRY(fd, tcpSocketIn(networkNamespace));
  auto address = loopback(port);
  if (::connect(fd.get(), reinterpret_cast<sockaddr*>(&address), sizeof(address)) < 0)
    return sysError("connect to the loopback");
  setNoDelay(fd.get());
  return std::move(fd);
}

Result<std::unique_ptr<ByteServer>> ByteServer::start(const std::string& networkNamespace, std::uint64_t bytes) {
  std::unique_ptr<ByteServer> server(new ByteServer);
  USERPOD_TRY(listener, listenIn(networkNamespace, server->port_));
  server->listener_ = std::move(listener);
  server->bytes_ = bytes;
  server->thread_ = std::thread([self = server.get()] {
    while (true) {
      UniqueFd connection(::accept4(self->listener_.get(), nullptr, nullptr, SOCK_CLOEXEC));
      if (!connection) return;
      self->serve(connection.get());
    }
  });
  return server;
}

ByteServer::~ByteServer() {
  ::shutdown(listener_.get(), SHUT_RDWR);
  if (thread_.joinable()) thread_.join();
}

void ByteServer::serve(int connection) const {
  std::vector<char> buffer(kPiece);
  char what = 0;
  if (::read(connection, &what, 1) != 1) return;
  if (what == 'S') {
    for (std::uint64_t left = bytes_; left > 0;) {
      ssize_t count = ::send(connection, buffer.data(), std::min<std::uint64_t>(left, buffer.size()), MSG_NOSIGNAL);
      if (count <= 0) return;
      left -= static_cast<std::uint64_t>(count);
    }
    return;
  }
  std::uint64_t seen = 0;
  ssize_t count = 0;
  while ((count = ::read(connection, buffer.data(), buffer.size())) > 0) seen += static_cast<std::uint64_t>(count);
  if (count == 0 && seen == bytes_) (void)::send(connection, "k", 1, MSG_NOSIGNAL);
}

Result<std::unique_ptr<SpliceProxy>> SpliceProxy::start(const std::string& networkNamespace, std::uint16_t port) {
  std::unique_ptr<SpliceProxy> proxy(new SpliceProxy);
  USERPOD_TRY(listener, listenIn("", proxy->port_));
  proxy->listener_ = std::move(listener);
  proxy->thread_ = std::thread([self = proxy.get(), networkNamespace, port] {
    while (true) {
      UniqueFd client(::accept4(self->listener_.get(), nullptr, nullptr, SOCK_CLOEXEC));
      if (!client) return;
      setNoDelay(client.get());
      auto server = connectIn(networkNamespace, port);
      if (!server) continue;
      std::thread up([&] { spliceAll(client.get(), server->get()); });
      spliceAll(server->get(), client.get());
      up.join();
    }
  });
  return proxy;
}

SpliceProxy::~SpliceProxy() {
  ::shutdown(listener_.get(), SHUT_RDWR);
  if (thread_.joinable()) thread_.join();
}

}  // namespace userpod::bench

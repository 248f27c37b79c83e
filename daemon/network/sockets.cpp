// Sockets in network namespaces that the daemon is not in.
#include <arpa/inet.h>
#include <fmt/core.h>
#include <netinet/in.h>
#include <sched.h>
#include <sys/socket.h>

#include <cerrno>
#include <optional>

#include "daemon/network/network.hpp"
#include "daemon/sys/executor.hpp"

namespace userpod::network {
namespace {

constexpr int kPortAttempts = 64;

Result<UniqueFd> tcpSocket(int family) {
  UniqueFd socket(::socket(family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!socket) return sysError("make a TCP socket");
  return socket;
}

sockaddr_in loopback(std::uint16_t port) {
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  address.sin_port = htons(port);
  return address;
}

// In this thread's namespace. Nothing when the port is taken; port 0 is any free one.
Result<std::optional<UniqueFd>> listenAt(std::uint16_t port) {
  USERPOD_TRY(socket, tcpSocket(AF_INET));
  // Connections of an earlier daemon at this port may still be waiting for their end.
  int on = 1;
  if (::setsockopt(socket.get(), SOL_SOCKET, SO_REUSEADDR, &on, sizeof on) < 0) return sysError("set up a socket");
  auto address = loopback(port);
  if (::bind(socket.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) == 0 &&
      ::listen(socket.get(), SOMAXCONN) == 0)
    return std::optional(std::move(socket));
  if (errno == EADDRINUSE) return std::optional<UniqueFd>();
  return sysError(fmt::format("listen on 127.0.0.1:{}", port)).as(Code::NetworkSetupFailed);
}

Result<std::uint16_t> portOf(int socket) {
  sockaddr_in address{};
  socklen_t size = sizeof address;
  if (::getsockname(socket, reinterpret_cast<sockaddr*>(&address), &size) < 0) return sysError("ask for a port");
  return ntohs(address.sin_port);
}

Result<std::optional<UniqueFd>> listenIn(int networkNamespace, std::uint16_t port) {
  std::optional<UniqueFd> socket;
  USERPOD_CHECK(inOwnThread([&]() -> Status {
    if (::setns(networkNamespace, CLONE_NEWNET) < 0) return sysError("join the node's network namespace");
    USERPOD_TRY(made, listenAt(port));
    socket = std::move(made);
    return {};
  }));
  return socket;
}

}  // namespace

Result<TcpSockets> socketsIn(const std::string& networkNamespace) {
  USERPOD_TRY(file, openFile(networkNamespace, O_RDONLY));
  TcpSockets sockets;
  USERPOD_CHECK(inOwnThread([&]() -> Status {
    if (::setns(file.get(), CLONE_NEWNET) < 0) return sysError("join network namespace " + networkNamespace);
    USERPOD_TRY(v4, tcpSocket(AF_INET));
    sockets.v4 = std::move(v4);
    auto v6 = tcpSocket(AF_INET6);
    if (v6) sockets.v6 = std::move(*v6);
    if (!v6 && v6.error().sysErrno() != EAFNOSUPPORT) return std::move(v6).error();
    return {};
  }));
  return sockets;
}

Result<LoopbackListeners> listenOnLoopback(int nodeNetworkNamespace) {
  std::vector<UniqueFd> tried;  // kept, so that each port is another one
  for (int attempt = 0; attempt < kPortAttempts; ++attempt) {
    USERPOD_TRY(host, listenAt(0));
    if (!host) break;
    USERPOD_TRY(port, portOf(host->get()));
    USERPOD_TRY(node, listenIn(nodeNetworkNamespace, port));
    if (node) return LoopbackListeners{std::move(*host), std::move(*node), port};
    tried.push_back(std::move(*host));
  }
  return Error(Code::NetworkSetupFailed,
               fmt::format("no TCP port of 127.0.0.1 is free both in the host's network namespace and in the node's "
                           "({} tried); see net.ipv4.ip_local_port_range and `ss -tln`",
                           tried.size()));
}

}  // namespace userpod::network

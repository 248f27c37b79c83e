#include "daemon/network/ports/listener.hpp"

#include <fmt/core.h>
#include <netinet/tcp.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>

#include "daemon/network/ports/service.hpp"
#include "daemon/sys/util.hpp"

namespace userpod::ports {
namespace {

constexpr int kBacklog = 4096;       // the kernel cuts it to net.core.somaxconn
constexpr int kKeepAliveIdle = 120;  // seconds: a client that is gone without a word does not stay for ever

void enable(int fd, int level, int name, int value = 1) {
  (void)::setsockopt(fd, level, name, &value, sizeof value);
}

Error refused(const ListenAddress& address, int reason) {
  std::string what = "listen at " + address.text();
  if (reason != EACCES) return sysError(what, reason);
  auto start = readFile("/proc/sys/net/ipv4/ip_unprivileged_port_start", 64);
  return Error(Code::AccessDenied,
               fmt::format("{}: ports below {} are root's on this host; either as root: sysctl "
                           "net.ipv4.ip_unprivileged_port_start={} (in /etc/sysctl.d to keep it), or set "
                           "privileged-port-offset in userpod.toml, which takes such ports that much higher",
                           what, start ? std::string(trim(*start)) : "1024", address.endpoint.port()),
               reason);
}

}  // namespace

bool ListenAddress::overlaps(const ListenAddress& other) const {
  if (side != other.side || udp != other.udp || endpoint.port() != other.endpoint.port()) return false;
  if (endpoint.family() != other.endpoint.family()) return false;
  return endpoint == other.endpoint || endpoint.unspecified() || other.endpoint.unspecified();
}

std::string ListenAddress::text() const {
  return fmt::format("{} port {} of {}{}", udp ? "UDP" : "TCP", endpoint.port(), endpoint.address(),
                     side == Side::Node ? " in the node" : "");
}

Result<UniqueFd> openListener(const ListenAddress& address) {
  int family = address.endpoint.family();
  UniqueFd fd(::socket(family, (address.udp ? SOCK_DGRAM : SOCK_STREAM) | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!fd) return refused(address, errno);
  if (family == AF_INET6) enable(fd.get(), IPPROTO_IPV6, IPV6_V6ONLY);
  if (address.udp) {
    // Replies leave from the address that the client wrote to.
    if (family == AF_INET6)
      enable(fd.get(), IPPROTO_IPV6, IPV6_RECVPKTINFO);
    else
      enable(fd.get(), IPPROTO_IP, IP_PKTINFO);
  } else {
    enable(fd.get(), SOL_SOCKET, SO_REUSEADDR);
    // Sockets that it accepts have these from it.
    enable(fd.get(), IPPROTO_TCP, TCP_NODELAY);
    enable(fd.get(), SOL_SOCKET, SO_KEEPALIVE);
    enable(fd.get(), IPPROTO_TCP, TCP_KEEPIDLE, kKeepAliveIdle);
    enable(fd.get(), IPPROTO_TCP, TCP_NOTSENT_LOWAT, kUnsentLimit);
  }
  if (::bind(fd.get(), address.endpoint.raw(), address.endpoint.size()) < 0) return refused(address, errno);
  if (!address.udp && ::listen(fd.get(), kBacklog) < 0) return refused(address, errno);
  return fd;
}

}  // namespace userpod::ports

// The sockets that hold host ports.
#pragma once

#include <compare>
#include <string>

#include "daemon/network/ports/endpoint.hpp"
#include "daemon/network/ports/messages.hpp"
#include "daemon/sys/error.hpp"
#include "daemon/sys/fd.hpp"

namespace userpod::ports {

struct ListenAddress {
  Side side = Side::Host;  // whose network namespace
  bool udp = false;
  Endpoint endpoint;

  auto operator<=>(const ListenAddress&) const = default;
  // Whether one of the two sockets would be refused beside the other.
  bool overlaps(const ListenAddress& other) const;
  std::string text() const;  // "TCP port 8080 of 0.0.0.0"
};

// A non-blocking socket in the calling thread's network namespace; TCP: it listens. sysErrno() is EADDRINUSE for one
// that is taken; EADDRNOTAVAIL or EAFNOSUPPORT where the namespace does not have the address. AccessDenied for a port
// below net.ipv4.ip_unprivileged_port_start, with the mends.
Result<UniqueFd> openListener(const ListenAddress& address);

}  // namespace userpod::ports

// An address and a port of either family.
#pragma once

#include <netinet/in.h>
#include <sys/socket.h>

#include <compare>
#include <cstdint>
#include <optional>
#include <string>
#include <utility>

namespace userpod::ports {

class Endpoint {
 public:
  Endpoint() = default;
  static Endpoint any(int family, std::uint16_t port);
  // A textual address without a scope; nothing for anything else.
  static std::optional<Endpoint> parse(const std::string& address, std::uint16_t port);

  int family() const { return all_.sa.sa_family; }
  bool v6() const { return family() == AF_INET6; }
  std::uint16_t port() const { return ntohs(v6() ? all_.v6.sin6_port : all_.v4.sin_port); }
  void setPort(std::uint16_t port) { (v6() ? all_.v6.sin6_port : all_.v4.sin_port) = htons(port); }
  bool loopback() const;
  bool linkLocal() const;  // of IPv6: means nothing without its link
  bool unspecified() const;
  std::string address() const;  // "10.88.0.5"
  std::string text() const;     // "10.88.0.5:80", "[fd75::5]:80"

  // The bytes of the address: 4 or 16, in network order.
  const std::uint8_t* bytes() const {
    return v6() ? all_.v6.sin6_addr.s6_addr : reinterpret_cast<const std::uint8_t*>(&all_.v4.sin_addr);
  }
  std::uint8_t* bytes() { return const_cast<std::uint8_t*>(std::as_const(*this).bytes()); }
  std::size_t byteCount() const { return v6() ? 16 : 4; }

  // For system calls.
  sockaddr* raw() { return &all_.sa; }
  const sockaddr* raw() const { return &all_.sa; }
  socklen_t size() const { return v6() ? sizeof(sockaddr_in6) : sizeof(sockaddr_in); }
  static constexpr socklen_t capacity() { return sizeof(sockaddr_in6); }

  // By family, address and port; the scope and the flow label do not count.
  std::strong_ordering operator<=>(const Endpoint& other) const;
  bool operator==(const Endpoint& other) const { return (*this <=> other) == 0; }

 private:
  union {
    sockaddr sa;
    sockaddr_in v4;
    sockaddr_in6 v6;
  } all_{.v6 = {}};
};

}  // namespace userpod::ports

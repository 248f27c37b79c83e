#include "daemon/network/ports/endpoint.hpp"

#include <arpa/inet.h>
#include <fmt/core.h>

#include <algorithm>
#include <array>
#include <cstring>

namespace userpod::ports {

Endpoint Endpoint::any(int family, std::uint16_t port) {
  Endpoint made;
  made.all_.sa.sa_family = static_cast<sa_family_t>(family);
  made.setPort(port);
  return made;
}

std::optional<Endpoint> Endpoint::parse(const std::string& address, std::uint16_t port) {
  Endpoint made = any(address.find(':') != std::string::npos ? AF_INET6 : AF_INET, port);
  void* into = made.v6() ? static_cast<void*>(&made.all_.v6.sin6_addr) : &made.all_.v4.sin_addr;
  if (::inet_pton(made.family(), address.c_str(), into) != 1) return std::nullopt;
  return made;
}

bool Endpoint::loopback() const {
  if (!v6()) return bytes()[0] == 127;
  // A mapped address would be one of IPv4 in disguise.
  return IN6_IS_ADDR_LOOPBACK(&all_.v6.sin6_addr) || IN6_IS_ADDR_V4MAPPED(&all_.v6.sin6_addr);
}

bool Endpoint::linkLocal() const {
  return v6() && IN6_IS_ADDR_LINKLOCAL(&all_.v6.sin6_addr);
}

bool Endpoint::unspecified() const {
  return std::all_of(bytes(), bytes() + byteCount(), [](std::uint8_t byte) { return byte == 0; });
}

std::string Endpoint::address() const {
  std::array<char, INET6_ADDRSTRLEN> text{};
  return ::inet_ntop(family(), bytes(), text.data(), text.size()) != nullptr ? text.data() : "?";
}

std::string Endpoint::text() const {
  return fmt::format(fmt::runtime(v6() ? "[{}]:{}" : "{}:{}"), address(), port());
}

std::strong_ordering Endpoint::operator<=>(const Endpoint& other) const {
  if (auto order = family() <=> other.family(); order != 0) return order;
  if (auto order = std::memcmp(bytes(), other.bytes(), byteCount()) <=> 0; order != 0) return order;
  return port() <=> other.port();
}

}  // namespace userpod::ports

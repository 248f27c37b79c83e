// The subnets that pods have their addresses of, as settings name them. Pure.
#pragma once

#include <array>
#include <cstdint>
#include <string>

#include "daemon/sys/error.hpp"

namespace userpod {

// An IPv4 subnet in host byte order.
struct Subnet {
  std::uint32_t base = 0;
  unsigned prefix = 0;

  // ConfigInvalid, saying what is wrong and the mend, for what cannot be a subnet of pods.
  static Result<Subnet> parse(const std::string& text);
  std::uint32_t gateway() const { return base + 1; }  // the bridge's own address
  std::uint32_t last() const { return base | (0xffffffffU >> prefix); }
  bool contains(std::uint32_t address) const { return address >= base && address <= last(); }
  std::string text() const;
};

using Address6 = std::array<std::uint8_t, 16>;  // network byte order

// Its counterpart: a pod's IPv6 address follows from its IPv4 one, so only the latter is managed.
struct Subnet6 {
  Address6 base{};
  unsigned prefix = 0;

  // ConfigInvalid as above; also for one that is too small for the IPv4 subnet.
  static Result<Subnet6> parse(const std::string& text, const Subnet& subnet);
  Address6 at(std::uint32_t offset) const;  // from the base
  std::string text() const;
};

std::string addressText(std::uint32_t address);
std::string addressText(const Address6& address);
Result<std::uint32_t> parseAddress(const std::string& text);  // InvalidArgument

}  // namespace userpod

// Addresses of the pods' subnets: who has which. Pure; one caller at a time.
#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <string>

#include "daemon/sys/error.hpp"

namespace userpod::network {

// An IPv4 subnet in host byte order.
struct Subnet {
  std::uint32_t base = 0;
  unsigned prefix = 0;

  // ConfigInvalid, naming the setting and the mend, for what cannot be a subnet of pods.
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

// Next-fit: a freed address comes back only when the rest of the subnet has been given out, and never before the delay
// is over. Times are nanoseconds since the epoch.
class AddressPool {
 public:
  AddressPool(Subnet subnet, std::int64_t delay) : subnet_(subnet), delay_(delay), next_(subnet.gateway() + 1) {}

  // Marks an address that is in use already. One outside the subnet is ignored: its pod keeps it until it ends.
  void reserve(std::uint32_t address, const std::string& owner);
  // NetworkSetupFailed, naming the settings, when all are in use or were until just now.
  Result<std::uint32_t> allocate(const std::string& owner, std::int64_t now);
  // Frees the address if it is the owner's; else it has been given to another pod since, and stays.
  void release(std::uint32_t address, const std::string& owner, std::int64_t now);
  // An address that was freed at that time, by an earlier daemon.
  void rest(std::uint32_t address, std::int64_t freedAt);
  std::size_t used() const { return owners_.size(); }
  std::size_t capacity() const { return subnet_.last() - subnet_.gateway() - 1; }

 private:
  bool usable(std::uint32_t address) const { return address > subnet_.gateway() && address < subnet_.last(); }

  Subnet subnet_;
  std::int64_t delay_;
  std::uint32_t next_;
  std::map<std::uint32_t, std::string> owners_;
  std::map<std::uint32_t, std::int64_t> resting_;  // address -> when it was freed
};

}  // namespace userpod::network

// Addresses of the pods' subnet: who has which. Pure; one caller at a time.
#pragma once

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
  std::string text() const;
};

std::string addressText(std::uint32_t address);
Result<std::uint32_t> parseAddress(const std::string& text);  // InvalidArgument

// Next-fit: a freed address comes back only when the rest of the subnet has been given out.
class AddressPool {
 public:
  explicit AddressPool(Subnet subnet) : subnet_(subnet), next_(subnet.gateway() + 1) {}

  // Marks an address that is in use already. One outside the subnet is ignored: its pod keeps it until it ends.
  void reserve(std::uint32_t address, const std::string& owner);
  // NetworkSetupFailed, naming the setting, when all are in use.
  Result<std::uint32_t> allocate(const std::string& owner);
  // Frees the address if it is the owner's or nobody's; else it has been given to another pod since, and stays.
  void release(std::uint32_t address, const std::string& owner);
  std::size_t used() const { return owners_.size(); }

 private:
  Subnet subnet_;
  std::uint32_t next_;
  std::map<std::uint32_t, std::string> owners_;
};

}  // namespace userpod::network

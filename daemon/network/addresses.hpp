// Addresses of the pods' subnets: who has which. Pure; one caller at a time.
#pragma once

#include <cstdint>
#include <map>
#include <string>

#include "daemon/sys/error.hpp"
#include "policy/subnets.hpp"

namespace userpod::network {

// Next-fit: a freed address comes back only when the rest of the subnet has been given out, and never before the delay
// is over. Times are nanoseconds of bootNanos(): a clock that is set keeps no
// address back.
class AddressPool {
 public:
  AddressPool(Subnet subnet, std::int64_t delay) : subnet_(subnet), delay_(delay), next_(subnet.gateway() + 1) {}

  void setDelay(std::int64_t delay) { delay_ = delay; }
  // Marks an address that is in use already. One outside the subnet is ignored: its pod keeps it until it ends.
  void reserve(std::uint32_t address, const std::string& owner);
  // NetworkSetupFailed, naming the settings, when all are in use or were until just now.
  Result<std::uint32_t> allocate(const std::string& owner, std::int64_t now);
  // Frees the address if it is the owner's; else it has been given to another pod since, and stays.
  void release(std::uint32_t address, const std::string& owner, std::int64_t now);
  // An address that was freed at that time, by an earlier daemon. A time that is still to come counts as long past.
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

#include "daemon/network/addresses.hpp"

#include <fmt/core.h>

namespace userpod::network {
void AddressPool::reserve(std::uint32_t address, const std::string& owner) {
  if (!usable(address)) return;
  owners_.emplace(address, owner);
  // After a restart go on behind the highest, so that what was freed last is not taken first.
  if (address >= next_) next_ = address + 1;
}

Result<std::uint32_t> AddressPool::allocate(const std::string& owner, std::int64_t now) {
  for (std::size_t tried = 0; tried < capacity(); ++tried, ++next_) {
    if (!usable(next_)) next_ = subnet_.gateway() + 1;
    if (auto rest = resting_.find(next_); rest != resting_.end()) {
      if (now >= rest->second && now - rest->second < delay_) continue;
      resting_.erase(rest);
    }
    if (owners_.emplace(next_, owner).second) return next_++;
  }
  return Error(Code::NetworkSetupFailed,
               fmt::format("all {} pod addresses of {} are in use or were freed less than address-reuse-delay ago; "
                           "remove pods, or set a larger subnet in userpod.toml",
                           capacity(), subnet_.text()));
}

void AddressPool::release(std::uint32_t address, const std::string& owner, std::int64_t now) {
  auto entry = owners_.find(address);
  if (entry == owners_.end() || entry->second != owner) return;
  owners_.erase(entry);
  rest(address, now);
}

void AddressPool::rest(std::uint32_t address, std::int64_t freedAt) {
  if (usable(address)) resting_[address] = freedAt;
}

}  // namespace userpod::network

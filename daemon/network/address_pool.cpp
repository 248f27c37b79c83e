#include "daemon/network/address_pool.hpp"

#include <arpa/inet.h>
#include <fmt/core.h>

#include <charconv>

namespace userpod::network {
namespace {

// libslirp's own network, which the uplink gives the node: facts of slirp4netns(1).
constexpr Subnet kUplink{.base = 0x0a000200, .prefix = 24};

Error invalid(const std::string& text, const std::string& why) {
  return {Code::ConfigInvalid, fmt::format("subnet = \"{}\" in userpod.toml: {}", text, why)};
}

}  // namespace

std::string addressText(std::uint32_t address) {
  return fmt::format("{}.{}.{}.{}", address >> 24, (address >> 16) & 255, (address >> 8) & 255, address & 255);
}

Result<std::uint32_t> parseAddress(const std::string& text) {
  in_addr address{};
  if (::inet_pton(AF_INET, text.c_str(), &address) != 1)
    return Error(Code::InvalidArgument, "not an IPv4 address: " + text.substr(0, 64));
  return ntohl(address.s_addr);
}

std::string Subnet::text() const {
  return fmt::format("{}/{}", addressText(base), prefix);
}

Result<Subnet> Subnet::parse(const std::string& text) {
  constexpr const char* kExample = "write an IPv4 subnet like 10.88.0.0/16";
  auto slash = text.find('/');
  if (slash == std::string::npos) return invalid(text, kExample);
  auto address = parseAddress(text.substr(0, slash));
  Subnet subnet;
  const char* end = text.data() + text.size();
  auto number = std::from_chars(text.data() + slash + 1, end, subnet.prefix);
  if (!address || number.ec != std::errc() || number.ptr != end) return invalid(text, kExample);
  if (subnet.prefix < 8 || subnet.prefix > 30) return invalid(text, "the prefix length must be 8 to 30");
  subnet.base = *address & ~(0xffffffffU >> subnet.prefix);
  if (subnet.base != *address) return invalid(text, "bits beyond the prefix are set; write " + subnet.text());
  std::uint32_t first = subnet.base >> 24;
  if (first == 0 || first == 127 || first >= 224)
    return invalid(text, "pods cannot have such addresses; use a private range like 10.88.0.0/16");
  if (subnet.base <= kUplink.last() && kUplink.base <= subnet.last())
    return invalid(text, "it overlaps the uplink's own network " + kUplink.text() + "; use another, like 10.88.0.0/16");
  return subnet;
}

void AddressPool::reserve(std::uint32_t address, const std::string& owner) {
  if (address <= subnet_.gateway() || address >= subnet_.last()) return;
  auto [entry, added] = owners_.emplace(address, owner);
  if (!added && entry->second.empty()) entry->second = owner;
  // After a restart go on behind the highest, so that what was freed last is not taken first.
  if (address >= next_) next_ = address + 1;
}

Result<std::uint32_t> AddressPool::allocate(const std::string& owner) {
  std::uint32_t first = subnet_.gateway() + 1;
  std::uint32_t count = subnet_.last() - first;
  if (owners_.size() >= count)
    return Error(
        Code::NetworkSetupFailed,
        fmt::format("all {} pod addresses of {} are in use; remove pods or set a larger subnet in userpod.toml", count,
                    subnet_.text()));
  for (;; ++next_) {
    if (next_ < first || next_ >= subnet_.last()) next_ = first;
    if (owners_.emplace(next_, owner).second) return next_++;
  }
}

void AddressPool::release(std::uint32_t address, const std::string& owner) {
  auto entry = owners_.find(address);
  if (entry != owners_.end() && (entry->second == owner || entry->second.empty())) owners_.erase(entry);
}

}  // namespace userpod::network

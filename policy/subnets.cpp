#include "policy/subnets.hpp"

#include <arpa/inet.h>
#include <fmt/core.h>

#include <algorithm>
#include <charconv>

#include "daemon/sys/util.hpp"

namespace userpod {
namespace {

// libslirp's own network, which the uplink gives the node: facts of slirp4netns(1).
constexpr Subnet kUplink{.base = 0x0a000200, .prefix = 24};

Error invalid(const std::string& text, const std::string& why) {
  return {Code::ConfigInvalid, fmt::format("\"{}\" is no subnet of pods: {}", excerpt(text), why)};
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
  constexpr const char* kExample = "it is not well-formed; write an IPv4 subnet like 10.88.0.0/16";
  auto slash = text.find('/');
  if (slash == std::string::npos) return invalid(text, kExample);
  auto address = parseAddress(text.substr(0, slash));
  Subnet subnet;
  const char* end = text.data() + text.size();
  auto number = std::from_chars(text.data() + slash + 1, end, subnet.prefix);
  if (!address || number.ec != std::errc() || number.ptr != end) return invalid(text, kExample);
  if (subnet.prefix < 8 || subnet.prefix > 30)
    return invalid(text, "its prefix length is not 8 to 30; write one like 10.88.0.0/16");
  subnet.base = *address & ~(0xffffffffU >> subnet.prefix);
  if (subnet.base != *address) return invalid(text, "bits beyond the prefix are set; write " + subnet.text());
  std::uint32_t first = subnet.base >> 24;
  if (first == 0 || first == 127 || first >= 224)
    return invalid(text, "pods cannot have such addresses; use a private range like 10.88.0.0/16");
  if (subnet.base <= kUplink.last() && kUplink.base <= subnet.last())
    return invalid(text, "it overlaps the uplink's own network " + kUplink.text() + "; use another, like 10.88.0.0/16");
  return subnet;
}

std::string addressText(const Address6& address) {
  std::array<char, INET6_ADDRSTRLEN> text{};
  ::inet_ntop(AF_INET6, address.data(), text.data(), text.size());
  return text.data();
}

Address6 Subnet6::at(std::uint32_t offset) const {
  Address6 address = base;
  for (std::size_t i = 15; i >= 12; --i, offset >>= 8) address[i] |= static_cast<std::uint8_t>(offset & 255);
  return address;
}

std::string Subnet6::text() const {
  return fmt::format("{}/{}", addressText(base), prefix);
}

Result<Subnet6> Subnet6::parse(const std::string& text, const Subnet& subnet) {
  auto bad = [&](const std::string& why) {
    return Error(Code::ConfigInvalid, fmt::format("\"{}\" is no IPv6 subnet of pods: {}", excerpt(text), why));
  };
  constexpr const char* kExample =
      "it is not well-formed; write an IPv6 subnet like fd75:7064:88::/64, or \"\" for none";
  auto slash = text.find('/');
  Subnet6 found;
  if (slash == std::string::npos || ::inet_pton(AF_INET6, text.substr(0, slash).c_str(), found.base.data()) != 1)
    return bad(kExample);
  const char* end = text.data() + text.size();
  auto number = std::from_chars(text.data() + slash + 1, end, found.prefix);
  if (number.ec != std::errc() || number.ptr != end) return bad(kExample);
  // Below 96 the last 32 bits are the pods' in any case.
  if (found.prefix < 16 || found.prefix > 96 + subnet.prefix)
    return bad(fmt::format("its prefix length is not 16 to {}, for as many pods as {} has; write one like {}",
                           96 + subnet.prefix, subnet.text(), "fd75:7064:88::/64"));
  Address6 whole = found.base;
  for (unsigned bit = found.prefix; bit < 128; ++bit)
    whole[bit / 8] &= static_cast<std::uint8_t>(~(0x80U >> (bit % 8)));
  if (whole != found.base) {
    found.base = whole;
    return bad("bits beyond the prefix are set; write " + found.text());
  }
  bool local = (found.base[0] & 0xfe) == 0xfc;
  bool global = (found.base[0] & 0xe0) == 0x20;
  if (!local && !global) return bad("pods cannot have such addresses; use a unique local range like fd75:7064:88::/64");
  constexpr std::array<std::uint8_t, 8> kUplink6 = {0xfd, 0};
  if (std::equal(kUplink6.begin(), kUplink6.begin() + static_cast<long>(std::min(found.prefix, 64U) / 8),
                 found.base.begin()))
    return bad("it overlaps the uplink's own network fd00::/64; use another, like fd75:7064:88::/64");
  return found;
}

}  // namespace userpod

#include "userns/host_address.hpp"

#include <arpa/inet.h>
#include <ifaddrs.h>
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <net/if.h>
#include <sys/socket.h>

#include <array>
#include <cerrno>
#include <memory>

namespace userpod {
namespace {

// As a host would be named to others: not itself, nobody, or only valid on one link.
bool namesHost(const in_addr& address) {
  std::uint32_t value = ntohl(address.s_addr);
  return value != INADDR_ANY && value >> 24 != 127 && value >> 16 != 0xa9fe;
}

bool namesHost(const in6_addr& address) {
  return !IN6_IS_ADDR_UNSPECIFIED(&address) && !IN6_IS_ADDR_LOOPBACK(&address) && !IN6_IS_ADDR_LINKLOCAL(&address) &&
         !IN6_IS_ADDR_V4MAPPED(&address);
}

std::string textOf(const sockaddr* address) {
  std::array<char, INET6_ADDRSTRLEN> text{};
  if (address->sa_family == AF_INET) {
    const auto& v4 = reinterpret_cast<const sockaddr_in*>(address)->sin_addr;
    if (namesHost(v4)) ::inet_ntop(AF_INET, &v4, text.data(), text.size());
  } else if (address->sa_family == AF_INET6) {
    const auto& v6 = reinterpret_cast<const sockaddr_in6*>(address)->sin6_addr;
    if (namesHost(v6)) ::inet_ntop(AF_INET6, &v6, text.data(), text.size());
  }
  return text.data();
}

// A connected UDP socket has its route and source; nothing is sent. Addresses kept for documentation are nobody's, so
// only the default route leads there.
std::string sourceTowards(int family, const char* nobody) {
  sockaddr_storage address{};
  socklen_t size = 0;
  if (family == AF_INET) {
    auto& v4 = reinterpret_cast<sockaddr_in&>(address);
    v4.sin_port = htons(9);
    ::inet_pton(AF_INET, nobody, &v4.sin_addr);
    size = sizeof(v4);
  } else {
    auto& v6 = reinterpret_cast<sockaddr_in6&>(address);
    v6.sin6_port = htons(9);
    ::inet_pton(AF_INET6, nobody, &v6.sin6_addr);
    size = sizeof(v6);
  }
  address.ss_family = static_cast<sa_family_t>(family);
  UniqueFd socket(::socket(family, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  auto* plain = reinterpret_cast<sockaddr*>(&address);
  if (!socket || ::connect(socket.get(), plain, size) < 0) return {};
  size = sizeof(address);
  if (::getsockname(socket.get(), plain, &size) < 0) return {};
  return textOf(plain);
}

std::string firstOf(int family, const ifaddrs* list) {
  for (; list != nullptr; list = list->ifa_next) {
    if (list->ifa_addr == nullptr || list->ifa_addr->sa_family != family || (list->ifa_flags & IFF_UP) == 0) continue;
    if (std::string text = textOf(list->ifa_addr); !text.empty()) return text;
  }
  return {};
}

}  // namespace

HostAddresses hostAddresses() {
  HostAddresses addresses{sourceTowards(AF_INET, "198.51.100.1"), sourceTowards(AF_INET6, "2001:db8:ffff::1")};
  if (!addresses.v4.empty() && !addresses.v6.empty()) return addresses;
  ifaddrs* list = nullptr;
  if (::getifaddrs(&list) < 0) return addresses;
  std::unique_ptr<ifaddrs, void (*)(ifaddrs*)> owner(list, &::freeifaddrs);
  if (addresses.v4.empty()) addresses.v4 = firstOf(AF_INET, list);
  if (addresses.v6.empty()) addresses.v6 = firstOf(AF_INET6, list);
  return addresses;
}

Result<HostAddressWatch> HostAddressWatch::open() {
  UniqueFd socket(::socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC | SOCK_NONBLOCK, NETLINK_ROUTE));
  if (!socket) return sysError("open rtnetlink socket");
  sockaddr_nl address{};
  address.nl_family = AF_NETLINK;
  // Links too: of IPv4 routes that go with their link nothing else is said.
  address.nl_groups = RTMGRP_LINK | RTMGRP_IPV4_IFADDR | RTMGRP_IPV4_ROUTE | RTMGRP_IPV6_IFADDR | RTMGRP_IPV6_ROUTE;
  if (::bind(socket.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)) < 0)
    return sysError("subscribe to the host's addresses");
  return HostAddressWatch(std::move(socket));
}

void HostAddressWatch::drain() {
  std::array<char, 16384> buffer;
  // ENOBUFS: words were lost, and there may be more behind.
  while (::recv(socket_.get(), buffer.data(), buffer.size(), MSG_TRUNC) >= 0 || errno == EINTR || errno == ENOBUFS) {
  }
}

}  // namespace userpod

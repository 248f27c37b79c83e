#include <arpa/inet.h>
#include <fmt/core.h>
#include <linux/if_tun.h>
#include <linux/ipv6.h>
#include <net/if.h>
#include <net/route.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#include <cstring>

#include "daemon/sys/fd.hpp"
#include "daemon/sys/util.hpp"
#include "userns/node_setup.hpp"

// Plain ioctls: a handful of requests once, by a process that then keeps nothing but a signal loop.
namespace userpod {
namespace {

constexpr const char* kTap = "tap0";
constexpr int kMtu = 65520;  // the most that slirp4netns takes; large segments are what makes it fast

ifreq requestFor(const char* name) {
  ifreq request{};
  std::strncpy(request.ifr_name, name, IFNAMSIZ - 1);
  return request;
}

void setAddress(sockaddr& target, const char* text) {
  sockaddr_in address{};
  address.sin_family = AF_INET;
  ::inet_pton(AF_INET, text, &address.sin_addr);
  std::memcpy(&target, &address, sizeof(address));
}

Status call(int fd, unsigned long number, void* argument, const char* what) {
  if (::ioctl(fd, number, argument) < 0) return sysError(fmt::format("node network: {}", what));
  return {};
}

Status bringUp(int socket, const char* name) {
  ifreq request = requestFor(name);
  USERPOD_CHECK(call(socket, SIOCGIFFLAGS, &request, "read flags"));
  request.ifr_flags = static_cast<short>(request.ifr_flags | IFF_UP);
  return call(socket, SIOCSIFFLAGS, &request, "bring an interface up");
}

// Persistent, so that addresses, routes and pods' sockets outlive an uplink that dies.
Result<UniqueFd> makeTap() {
  USERPOD_TRY(tun, openFile("/dev/net/tun", O_RDWR));
  ifreq request = requestFor(kTap);
  request.ifr_flags = IFF_TAP | IFF_NO_PI;
  USERPOD_CHECK(call(tun.get(), TUNSETIFF, &request, "make tap0"));
  if (::ioctl(tun.get(), TUNSETPERSIST, 1) < 0) return sysError("node network: keep tap0");
  return std::move(tun);
}

Status configureV4(int socket) {
  ifreq request = requestFor(kTap);
  setAddress(request.ifr_addr, "10.0.2.100");
  USERPOD_CHECK(call(socket, SIOCSIFADDR, &request, "address 10.0.2.100"));
  request = requestFor(kTap);
  setAddress(request.ifr_netmask, "255.255.255.0");
  USERPOD_CHECK(call(socket, SIOCSIFNETMASK, &request, "netmask"));
  rtentry route{};
  setAddress(route.rt_dst, "0.0.0.0");
  setAddress(route.rt_genmask, "0.0.0.0");
  setAddress(route.rt_gateway, "10.0.2.2");
  route.rt_flags = RTF_UP | RTF_GATEWAY;
  return call(socket, SIOCADDRT, &route, "default route by 10.0.2.2");
}

// Static: a default route learnt from router advertisements would go when forwarding is turned on.
Status configureV6(const std::string& prefix) {
  USERPOD_CHECK(writeFile("/proc/sys/net/ipv6/conf/tap0/accept_ra", "0"));
  USERPOD_CHECK(writeFile("/proc/sys/net/ipv6/conf/tap0/accept_dad", "0"));
  UniqueFd socket(::socket(AF_INET6, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  if (!socket) return sysError("node network: socket");
  int index = static_cast<int>(::if_nametoindex(kTap));
  in6_ifreq address{};
  ::inet_pton(AF_INET6, (prefix + "100").c_str(), &address.ifr6_addr);
  address.ifr6_prefixlen = 64;
  address.ifr6_ifindex = index;
  USERPOD_CHECK(call(socket.get(), SIOCSIFADDR, &address, "IPv6 address"));
  in6_rtmsg route{};
  ::inet_pton(AF_INET6, (prefix + "2").c_str(), &route.rtmsg_gateway);
  route.rtmsg_flags = RTF_UP | RTF_GATEWAY;
  route.rtmsg_metric = 1024;
  route.rtmsg_ifindex = index;
  return call(socket.get(), SIOCADDRT, &route, "IPv6 default route");
}

}  // namespace

bool hostUsesUplinkPrefix() {
  // /proc/net/if_inet6: address; /proc/net/ipv6_route: destination and its prefix length; both 32 hexadecimal digits.
  constexpr std::string_view kPrefix = "fd00000000000000";
  if (auto text = readFile("/proc/net/if_inet6"))
    for (const auto& line : split(*text, '\n'))
      if (line.starts_with(kPrefix)) return true;
  if (auto text = readFile("/proc/net/ipv6_route", 16U << 20))
    for (const auto& line : split(*text, '\n'))
      if (line.starts_with(kPrefix) && line.size() > 35 && line.substr(33, 2) >= "40") return true;
  return false;
}

Status setUpNodeNetwork(const NodePlan& plan, std::string& tapProblem) {
  UniqueFd socket(::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  if (!socket) return sysError("node network: socket");
  USERPOD_CHECK(bringUp(socket.get(), "lo"));
  USERPOD_CHECK(writeFile("/proc/sys/net/ipv4/ip_forward", "1"));
  bool kernelV6 = pathExists("/proc/sys/net/ipv6/conf/all");
  if (kernelV6) USERPOD_CHECK(writeFile("/proc/sys/net/ipv6/conf/all/forwarding", "1"));
  if (!plan.uplink) return {};
  auto tap = makeTap();  // held open to the end: with it the interface has a carrier
  if (!tap) {
    tapProblem = tap.error().text() +
                 "; the node has no way out: load the kernel's tun module (as root: modprobe tun) and "
                 "see that /dev/net/tun is writable by all";
    return {};
  }
  ifreq mtu = requestFor(kTap);
  mtu.ifr_mtu = kMtu;
  USERPOD_CHECK(call(socket.get(), SIOCSIFMTU, &mtu, "set the MTU of tap0"));
  USERPOD_CHECK(bringUp(socket.get(), kTap));
  USERPOD_CHECK(configureV4(socket.get()));
  if (kernelV6 && !plan.prefix6.empty()) return configureV6(plan.prefix6);
  return {};
}

}  // namespace userpod

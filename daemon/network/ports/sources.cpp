#include "daemon/network/ports/sources.hpp"

#include <fmt/core.h>
#include <ifaddrs.h>
#include <libmnl/libmnl.h>
#include <linux/rtnetlink.h>
#include <netinet/tcp.h>
#include <poll.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <optional>

#include "daemon/sys/log.hpp"

namespace userpod::ports {
namespace {

constexpr int kProbeTime = 50;    // milliseconds; on the loopback it takes a tenth of one
constexpr int kConnectTries = 4;  // segments that ask for a connection: 31 s
constexpr std::size_t kNetworkLimit = 4096;

int setOption(int fd, int level, int name, int value) {
  return ::setsockopt(fd, level, name, &value, sizeof value);
}

Status markTransparent(int fd, int family) {
  int done =
      family == AF_INET6 ? setOption(fd, SOL_IPV6, IPV6_TRANSPARENT, 1) : setOption(fd, SOL_IP, IP_TRANSPARENT, 1);
  if (done < 0) return sysError("set IP_TRANSPARENT");
  if (setOption(fd, SOL_SOCKET, SO_MARK, kMark) < 0) return sysError("set SO_MARK");
  return {};
}

Result<UniqueFd> outgoingSocket(int family, int type) {
  UniqueFd fd(::socket(family, type | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!fd) return sysError("make a socket towards a pod");
  return fd;
}

Status startConnect(int fd, const Endpoint& target, int type) {
  if (::connect(fd, target.raw(), target.size()) < 0 && errno != EINPROGRESS)
    return sysError("connect to " + target.text());
  if (type != SOCK_STREAM) return {};
  // Now, while the connection is on its way.
  (void)setOption(fd, IPPROTO_TCP, TCP_NODELAY, 1);
  (void)setOption(fd, IPPROTO_TCP, TCP_SYNCNT, kConnectTries);
  (void)setOption(fd, IPPROTO_TCP, TCP_NOTSENT_LOWAT, kUnsentLimit);
  return {};
}

bool addressInUse(const Error& error) {
  return error.sysErrno() == EADDRINUSE || error.sysErrno() == EADDRNOTAVAIL;
}

Result<UniqueFd> connectKept(const Endpoint& client, const Endpoint& target, int type) {
  USERPOD_TRY(fd, outgoingSocket(target.family(), type));
  USERPOD_CHECK(markTransparent(fd.get(), target.family()));
  // Connections of one client's port to several pods; to the same one is found out by connect().
  (void)setOption(fd.get(), SOL_SOCKET, SO_REUSEADDR, 1);
  if (client.port() == 0) (void)setOption(fd.get(), SOL_IP, IP_BIND_ADDRESS_NO_PORT, 1);
  if (::bind(fd.get(), client.raw(), client.size()) < 0) return sysError("take the address " + client.text());
  USERPOD_CHECK(startConnect(fd.get(), target, type));
  return std::move(fd);
}

struct RouteReader {
  Networks* networks;
  std::size_t count = 0;
};

int readRoute(const nlmsghdr* header, void* data) {
  auto* reader = static_cast<RouteReader*>(data);
  const auto* route = static_cast<const rtmsg*>(mnl_nlmsg_get_payload(header));
  if (route->rtm_type != RTN_UNICAST && route->rtm_type != RTN_LOCAL) return MNL_CB_OK;
  if (route->rtm_table != RT_TABLE_MAIN && route->rtm_table != RT_TABLE_LOCAL) return MNL_CB_OK;
  if (route->rtm_dst_len == 0) {
    if (route->rtm_table == RT_TABLE_MAIN) reader->networks->setDefault(route->rtm_family);
    return MNL_CB_OK;
  }
  Endpoint network = Endpoint::any(route->rtm_family, 0);
  const auto* end = static_cast<const char*>(mnl_nlmsg_get_payload_tail(header));
  const auto* attribute = static_cast<const nlattr*>(mnl_nlmsg_get_payload_offset(header, sizeof(rtmsg)));
  for (; mnl_attr_ok(attribute, static_cast<int>(end - reinterpret_cast<const char*>(attribute)));
       attribute = mnl_attr_next(attribute)) {
    if (mnl_attr_get_type(attribute) != RTA_DST || mnl_attr_get_payload_len(attribute) < network.byteCount()) continue;
    std::memcpy(network.bytes(), mnl_attr_get_payload(attribute), network.byteCount());
    if (reader->count++ < kNetworkLimit) reader->networks->add(network, route->rtm_dst_len);
  }
  return MNL_CB_OK;
}

Status dumpRoutes(int socket, int family, Networks& networks) {
  static std::uint32_t sequence = 0;
  std::array<char, 256> request{};
  auto* header = mnl_nlmsg_put_header(request.data());
  header->nlmsg_type = RTM_GETROUTE;
  header->nlmsg_flags = NLM_F_REQUEST | NLM_F_DUMP;
  header->nlmsg_seq = ++sequence;
  auto* route = static_cast<rtmsg*>(mnl_nlmsg_put_extra_header(header, sizeof(rtmsg)));
  route->rtm_family = static_cast<unsigned char>(family);
  if (::send(socket, request.data(), header->nlmsg_len, 0) < 0) return sysError("ask for the node's routes");
  RouteReader reader{&networks};
  std::vector<char> buffer(32 << 10);
  for (;;) {
    ssize_t count = ::recv(socket, buffer.data(), buffer.size(), 0);
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) return sysError("read the node's routes");
    int more = mnl_cb_run(buffer.data(), static_cast<std::size_t>(count), sequence, 0, readRoute, &reader);
    if (more < 0) return sysError("read the node's routes");
    if (more == MNL_CB_STOP) return {};
  }
}

Result<UniqueFd> routeSocket(unsigned groups) {
  UniqueFd fd(::socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE));
  if (!fd) return sysError("open rtnetlink");
  sockaddr_nl name{};
  name.nl_family = AF_NETLINK;
  name.nl_groups = groups;
  if (::bind(fd.get(), reinterpret_cast<sockaddr*>(&name), sizeof name) < 0) return sysError("listen to rtnetlink");
  return fd;
}

struct Neighbour {
  Endpoint own;       // an address of the node that is not its loopback
  Endpoint stranger;  // another one of the same network, the last but one or two
};

std::optional<Neighbour> neighbourFrom(const ifaddrs& entry, int family) {
  if (entry.ifa_addr == nullptr || entry.ifa_netmask == nullptr || entry.ifa_addr->sa_family != family)
    return std::nullopt;
  Neighbour made;
  Endpoint mask;
  socklen_t size = Endpoint::any(family, 0).size();
  std::memcpy(made.own.raw(), entry.ifa_addr, size);
  std::memcpy(mask.raw(), entry.ifa_netmask, size);
  std::size_t last = made.own.byteCount() - 1;
  if (made.own.loopback() || made.own.linkLocal() || (mask.bytes()[last] & 3) != 0) return std::nullopt;
  made.stranger = made.own;
  auto* bytes = made.stranger.bytes();
  for (std::size_t index = 0; index <= last; ++index) bytes[index] |= static_cast<std::uint8_t>(~mask.bytes()[index]);
  bytes[last] ^= made.own.bytes()[last] == (bytes[last] ^ 1) ? 2 : 1;
  return made;
}

std::optional<Neighbour> findNeighbour(int family) {
  ifaddrs* list = nullptr;
  if (::getifaddrs(&list) < 0) return std::nullopt;
  std::optional<Neighbour> found;
  for (auto* entry = list; entry != nullptr && !found; entry = entry->ifa_next) found = neighbourFrom(*entry, family);
  ::freeifaddrs(list);
  return found;
}

// Why it does not work; empty: it does. In the node's network namespace.
std::string tryKept(int family) {
  auto neighbour = findNeighbour(family);
  if (!neighbour) return family == AF_INET6 ? "the node has no IPv6 address" : "the node has no IPv4 address";
  auto listener = outgoingSocket(family, SOCK_STREAM);
  if (!listener) return listener.error().text();
  socklen_t size = Endpoint::capacity();
  neighbour->own.setPort(0);
  if (::bind(listener->get(), neighbour->own.raw(), neighbour->own.size()) < 0 || ::listen(listener->get(), 1) < 0 ||
      ::getsockname(listener->get(), neighbour->own.raw(), &size) < 0)
    return sysError("listen in the node").text();
  neighbour->stranger.setPort(0);
  auto fd = connectKept(neighbour->stranger, neighbour->own, SOCK_STREAM);
  if (!fd) return fd.error().text();
  pollfd entry{fd->get(), POLLOUT, 0};
  bool done = ::poll(&entry, 1, kProbeTime) == 1 && (entry.revents & (POLLERR | POLLHUP)) == 0;
  // Nothing of it stays: neither end waits for the other's.
  const linger abort{1, 0};
  (void)::setsockopt(fd->get(), SOL_SOCKET, SO_LINGER, &abort, sizeof abort);
  return done ? "" : "the node's rules for it are not there (nftables, routing by mark)";
}

}  // namespace

void Networks::add(const Endpoint& network, unsigned prefixLength) {
  all_.push_back({network, std::min<unsigned>(prefixLength, static_cast<unsigned>(network.byteCount() * 8))});
}

bool Networks::contain(const Endpoint& client) const {
  return std::any_of(all_.begin(), all_.end(), [&](const Network& network) {
    if (network.address.family() != client.family()) return false;
    const auto *one = network.address.bytes(), *other = client.bytes();
    unsigned whole = network.length / 8, rest = network.length % 8;
    if (std::memcmp(one, other, whole) != 0) return false;
    return rest == 0 || (one[whole] ^ other[whole]) >> (8 - rest) == 0;
  });
}

Result<std::unique_ptr<Sources>> Sources::open() {
  // Connections that are not kept all have the node's address: with the ports of those that ended in the last minute
  // left out, the search for a free one takes milliseconds from some 14,000 of them on, and ends in failure.
  if (auto reused = writeFile("/proc/sys/net/ipv4/tcp_tw_reuse", "1"); !reused) logDebug("{}", reused.error());
  USERPOD_TRY(changes, routeSocket(RTMGRP_IPV4_ROUTE | RTMGRP_IPV6_ROUTE));
  USERPOD_TRY(routes, routeSocket(0));
  std::unique_ptr<Sources> sources(new Sources(std::move(changes), std::move(routes)));
  sources->refresh();
  sources->probe();
  return sources;
}

void Sources::refresh() {
  std::array<char, 4096> ignored{};
  while (::recv(changes_.get(), ignored.data(), ignored.size(), MSG_DONTWAIT) >= 0 || errno == ENOBUFS) continue;
  auto networks = std::make_shared<Networks>();
  for (int family : {AF_INET, AF_INET6})
    if (auto read = dumpRoutes(routes_.get(), family, *networks); !read) logWarning("{}", read.error());
  std::lock_guard lock(mutex_);
  networks_ = std::move(networks);
}

void Sources::probe() {
  std::string problem4 = tryKept(AF_INET), problem6 = tryKept(AF_INET6);
  able4_ = problem4.empty();
  able6_ = problem6.empty();
  std::lock_guard lock(mutex_);
  problem4_ = std::move(problem4);
  problem6_ = std::move(problem6);
}

std::string Sources::problem(int family) const {
  std::lock_guard lock(mutex_);
  return family == AF_INET6 ? problem6_ : problem4_;
}

bool Sources::keeps(const Service& service, const Endpoint& client, const Endpoint& target) const {
  if (client.family() != target.family() || !(client.v6() ? able6_ : able4_)) return false;
  if (client.loopback() || client.linkLocal() || client.unspecified()) return false;
  std::shared_ptr<const Networks> networks;
  {
    std::lock_guard lock(mutex_);
    networks = networks_;
  }
  // A service of the node itself answers by the node's routes before the mark brings it back.
  if (service.nodeNetwork && !networks->haveDefault(client.family())) return false;
  return !networks->contain(client);
}

Result<Outgoing> Sources::connect(const Service& service, const Endpoint& client, int type, bool fullSource) const {
  const Endpoint& target = service.target(client.family());
  if (keeps(service, client, target)) {
    Endpoint source = client;
    if (!fullSource) source.setPort(0);
    auto fd = connectKept(source, target, type);
    if (!fd && addressInUse(fd.error()) && source.port() != 0) {
      source.setPort(0);
      fd = connectKept(source, target, type);
    }
    if (fd) return Outgoing{std::move(*fd), true};
    // Refused by the pod: the other way would be refused too.
    if (fd.error().sysErrno() == ECONNREFUSED) return std::move(fd).error();
  }
  USERPOD_TRY(fd, outgoingSocket(target.family(), type));
  USERPOD_CHECK(startConnect(fd.get(), target, type));
  return Outgoing{std::move(fd), false};
}

}  // namespace userpod::ports

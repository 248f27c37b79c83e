// Rows of pod networks: pod to pod beside a bare bridge, pod to host beside the bare uplink, many pods at once.
#include <arpa/inet.h>
#include <fmt/core.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>

#include <algorithm>
#include <functional>

#include "tests/benchmark/bare_forward.hpp"
#include "tests/benchmark/rows.hpp"
#include "userns/host_address.hpp"

namespace userpod::bench {
namespace {

using Clock = std::chrono::steady_clock;
constexpr unsigned kManyPods = 200;
constexpr unsigned kRoundTrips = 2000;

sockaddr_in inet(const std::string& address, std::uint16_t port) {
  sockaddr_in name{};
  name.sin_family = AF_INET;
  name.sin_port = htons(port);
  ::inet_pton(AF_INET, address.c_str(), &name.sin_addr);
  return name;
}

// Takes connections at all addresses of a network namespace, one after the other: to 'S' it sends kTransferBytes, and
// every other byte it sends back.
class Peer {
 public:
  static Result<std::unique_ptr<Peer>> start(const std::string& networkNamespace) {
    std::unique_ptr<Peer> peer(new Peer);
    USERPOD_TRY(socket, tcpSocketIn(networkNamespace));
    auto any = inet("0.0.0.0", 0);
    socklen_t size = sizeof any;
    if (::bind(socket.get(), reinterpret_cast<sockaddr*>(&any), size) < 0 || ::listen(socket.get(), 16) < 0 ||
        ::getsockname(socket.get(), reinterpret_cast<sockaddr*>(&any), &size) < 0)
      return sysError("listen");
    peer->port_ = ntohs(any.sin_port);
    peer->listener_ = std::move(socket);
    peer->thread_ = std::thread([raw = peer.get()] { raw->serve(); });
    return peer;
  }
  ~Peer() {
    ::shutdown(listener_.get(), SHUT_RDWR);
    thread_.join();
  }
  std::uint16_t port() const { return port_; }

 private:
  Peer() = default;
  void serve() const {
    const std::string piece(256 << 10, '\0');
    for (;;) {
      UniqueFd connection(::accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC));
      if (!connection) return;
      int one = 1;
      (void)::setsockopt(connection.get(), IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
      char byte = 0;
      while (::read(connection.get(), &byte, 1) == 1) {
        if (byte != 'S') {
          if (::send(connection.get(), &byte, 1, MSG_NOSIGNAL) != 1) break;
          continue;
        }
        for (std::uint64_t sent = 0; sent < kTransferBytes; sent += piece.size())
          if (!writeAll(connection.get(), piece)) break;
        break;
      }
    }
  }

  UniqueFd listener_;
  std::uint16_t port_ = 0;
  std::thread thread_;
};

// From one network to an address that a peer serves.
struct Route {
  std::string from;  // network namespace
  std::string address;
  std::uint16_t port = 0;

  Result<UniqueFd> open() const {
    USERPOD_TRY(socket, tcpSocketIn(from));
    auto name = inet(address, port);
    int one = 1;
    (void)::setsockopt(socket.get(), IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    timeval limit{.tv_sec = 60, .tv_usec = 0};
    (void)::setsockopt(socket.get(), SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
    if (::connect(socket.get(), reinterpret_cast<sockaddr*>(&name), sizeof name) < 0)
      return sysError(fmt::format("connect to {}:{}", address, port));
    return std::move(socket);
  }
  // MB/s from there.
  Status rate(Samples& samples) const {
    USERPOD_TRY(socket, open());
    auto begin = Clock::now();
    USERPOD_CHECK(writeAll(socket.get(), "S"));
    std::string buffer(256 << 10, '\0');
    std::uint64_t seen = 0;
    for (ssize_t count = 0; (count = ::read(socket.get(), buffer.data(), buffer.size())) > 0;)
      seen += static_cast<std::uint64_t>(count);
    if (seen != kTransferBytes) return Error(Code::Internal, fmt::format("{} bytes of {}", seen, kTransferBytes));
    samples.values.push_back(static_cast<double>(seen) / 1e6 /
                             std::chrono::duration<double>(Clock::now() - begin).count());
    return {};
  }
  // Milliseconds for a byte there and back.
  Status roundTrips(Samples& samples) const {
    USERPOD_TRY(socket, open());
    for (unsigned i = 0; i < kRoundTrips; ++i) {
      auto begin = Clock::now();
      char byte = 'x';
      if (::send(socket.get(), &byte, 1, MSG_NOSIGNAL) != 1 || ::read(socket.get(), &byte, 1) != 1)
        return sysError("a byte there and back");
      samples.values.push_back(std::chrono::duration<double, std::milli>(Clock::now() - begin).count());
    }
    return {};
  }
};

Status compare(const Options& options, Report& report, const std::string& name, const Route& product,
               const Route& bare) {
  Row rate{name, {}, {}, "MB/s"};
  Row trips{name + ", a byte and back", {}, {}};
  for (unsigned round = 0; round < std::min(options.samples, kTransfers); ++round) {
    USERPOD_CHECK(checkInterrupted());
    bool first = round % 2 == 0;
    for (const Route* route : {first ? &product : &bare, first ? &bare : &product}) {
      bool own = route == &product;
      USERPOD_CHECK(route->rate(own ? rate.product : rate.bare));
      USERPOD_CHECK(route->roundTrips(own ? trips.product : trips.bare));
    }
  }
  report.print(rate);
  report.print(trips);
  return {};
}

struct PodAt {
  std::string network;
  std::string address;
};

Result<PodAt> podAt(Client& client, const std::string& name) {
  USERPOD_TRY(pod, client.runPod(name));
  USERPOD_TRY(address, client.podAddress(pod));
  return PodAt{"/run/userpod/ns/" + pod.id + "/net", address};
}

Status podToPod(const Options& options, Client& client, BareSandboxes& bare, Report& report) {
  USERPOD_TRY(from, podAt(client, "from"));
  USERPOD_TRY(to, podAt(client, "to"));
  constexpr unsigned kFrom = 50001, kTo = 50002;
  USERPOD_CHECK(bare.make(kFrom));
  USERPOD_CHECK(bare.make(kTo));
  Status done = [&]() -> Status {
    USERPOD_TRY(peer, Peer::start(to.network));
    USERPOD_TRY(barePeer, Peer::start(bare.pin(kTo, "net")));
    return compare(options, report, "PodToPod", {from.network, to.address, peer->port()},
                   {bare.pin(kFrom, "net"), bare.address(kTo), barePeer->port()});
  }();
  for (unsigned number : {kFrom, kTo}) USERPOD_CHECK(bare.drop(number));
  return done;
}

// The uplink refuses the host's loopback, so the host is met at its main address.
Status podToHost(const Options& options, Client& client, Report& report) {
  auto host = hostAddresses().v4;
  if (host.empty()) return {};
  USERPOD_TRY(from, podAt(client, "out"));
  USERPOD_TRY(peer, Peer::start(""));
  return compare(options, report, "PodToHost", {from.network, host, peer->port()},
                 {"/proc/1/ns/net", host, peer->port()});
}

// Seconds until the last of them has its network, ten callers at once.
Status manyPods(Client& client, Report& report) {
  constexpr unsigned kCallers = 10;
  USERPOD_CHECK(client.removeAll());
  Samples ignored;
  auto begin = Clock::now();
  USERPOD_CHECK(timedTogether(ignored, kCallers, [&](unsigned caller) -> Status {
    for (unsigned i = caller; i < kManyPods; i += kCallers)
      if (auto pod = client.runPod(fmt::format("many-{}", i)); !pod) return std::move(pod).error();
    return {};
  }));
  double seconds = std::chrono::duration<double>(Clock::now() - begin).count();
  report.print(valueRow(fmt::format("{} pods networked", kManyPods), seconds, "s"));
  return {};
}

}  // namespace

Status measureNetwork(const Options& options, Client& client, BareSandboxes& bare, Report& report) {
  USERPOD_CHECK(podToPod(options, client, bare, report));
  USERPOD_CHECK(podToHost(options, client, report));
  USERPOD_CHECK(manyPods(client, report));
  return client.removeAll();
}

}  // namespace userpod::bench

// Rows of host ports: from the host to a pod.
#include <fmt/core.h>

#include <algorithm>
#include <thread>

#include "tests/benchmark/bare_forward.hpp"
#include "tests/benchmark/bare_slirp.hpp"
#include "tests/benchmark/peer.hpp"
#include "tests/benchmark/rows.hpp"
#include "userns/host_address.hpp"

namespace userpod::bench {
namespace {

constexpr unsigned kConnections = 2000;
constexpr unsigned kSlirpNumber = 50003;
constexpr std::chrono::microseconds kPause{300};  // until both sides have let go of the last connection

using Measure = Status (Route::*)(Samples&) const;

// In turns, each side first as often as the other.
Status compareRoutes(Row& row, unsigned rounds, const Route& product, const Route& bare, Measure measure) {
  for (unsigned round = 0; round < rounds; ++round) {
    USERPOD_CHECK(checkInterrupted());
    bool first = round % 2 == 0;
    USERPOD_CHECK(((first ? product : bare).*measure)(first ? row.product : row.bare));
    std::this_thread::sleep_for(kPause);
    USERPOD_CHECK(((first ? bare : product).*measure)(first ? row.bare : row.product));
    std::this_thread::sleep_for(kPause);
  }
  return {};
}

Status both(const std::string& name, unsigned rounds, const Route& product, const Route& bare, Report& report) {
  Row down{name + ", from the pod", {}, {}, "MB/s"};
  Row up{name + ", to the pod", {}, {}, "MB/s"};
  USERPOD_CHECK(compareRoutes(down, rounds, product, bare, &Route::rate));
  USERPOD_CHECK(compareRoutes(up, rounds, product, bare, &Route::rateTo));
  report.print(down);
  report.print(up);
  return {};
}

Status besideSlirp(unsigned rounds, BareSandboxes& bare, const NodeInside& node, const Route& product, Report& report) {
  USERPOD_CHECK(bare.make(kSlirpNumber));
  const auto network = bare.pin(kSlirpNumber, "net");
  Status done = [&]() -> Status {
    USERPOD_TRY(peer, Peer::start(network));
    USERPOD_TRY(slirp, SlirpForward::start(node, network, network.substr(0, network.rfind('/')), peer->port()));
    return both("HostPort beside slirp4netns", rounds, product, {"", "127.0.0.1", slirp->port()}, report);
  }();
  USERPOD_CHECK(bare.drop(kSlirpNumber));
  return done;
}

}  // namespace

Status measureHostPort(const Options& options, Client& client, BareSandboxes& bare, const NodeInside& node,
                       Report& report) {
  USERPOD_TRY(hostPort, freePort());
  USERPOD_TRY(pod, podAt(client, "host-port", hostPort));
  USERPOD_TRY(peer, Peer::start(pod.network, kServedPort));
  (void)peer;
  USERPOD_TRY(proxy, SpliceProxy::start(pod.network, kServedPort));
  // Where the host has an address that is not its loopback, the pod sees the client's own.
  auto host = hostAddresses().v4;
  const Route product{"", host.empty() ? "127.0.0.1" : host, hostPort};
  const unsigned rounds = std::min(options.samples, kTransfers);
  USERPOD_CHECK(both("HostPort beside splice", rounds, product, {"", "127.0.0.1", proxy->port()}, report));
  USERPOD_CHECK(besideSlirp(rounds, bare, node, product, report));
  const Route direct{"/proc/1/ns/net", pod.address, kServedPort};
  Row connection{"HostPort, connect and a byte back", {}, {}};
  USERPOD_CHECK(
      compareRoutes(connection, std::min(options.samples * 10, kConnections), product, direct, &Route::connection));
  report.print(connection);
  Row p99{"HostPort, connect and a byte back, p99", {}, {}};
  p99.product.values = {percentile(connection.product.values, 99)};
  p99.bare.values = {percentile(connection.bare.values, 99)};
  report.print(p99);
  Row trips{"HostPort, a byte and back", {}, {}};
  USERPOD_CHECK(compareRoutes(trips, std::min(options.samples, 10U), product, direct, &Route::roundTrips));
  report.print(trips);
  return client.removeAll();
}

}  // namespace userpod::bench

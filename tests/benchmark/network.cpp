// Rows of pod networks: pod to pod beside a bare bridge, pod to host beside the bare uplink, many pods at once.
#include <fmt/core.h>

#include <algorithm>
#include <functional>

#include "tests/benchmark/peer.hpp"
#include "tests/benchmark/rows.hpp"
#include "userns/host_address.hpp"

namespace userpod::bench {
namespace {

using Clock = std::chrono::steady_clock;
constexpr unsigned kManyPods = 200;

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

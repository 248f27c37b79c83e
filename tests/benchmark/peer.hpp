// A server in a network and the ways to it: for rates, round trips and connections.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <thread>

#include "daemon/sys/fd.hpp"
#include "tests/benchmark/rows.hpp"

namespace userpod::bench {

// Takes connections at all IPv4 addresses of a network namespace, one after the other: to 'S' it sends kTransferBytes;
// after 'R' it takes so many, and then says 'k'; every other byte it sends back.
class Peer {
 public:
  // "": the caller's namespace. Port 0 is any free one.
  static Result<std::unique_ptr<Peer>> start(const std::string& networkNamespace, std::uint16_t port = 0);
  ~Peer();
  std::uint16_t port() const { return port_; }

 private:
  Peer() = default;
  void serve() const;

  UniqueFd listener_;
  std::uint16_t port_ = 0;
  std::thread thread_;
};

// From one network to an address that a peer serves.
struct Route {
  std::string from;  // network namespace
  std::string address;
  std::uint16_t port = 0;

  Result<UniqueFd> open() const;
  Status rate(Samples& samples) const;        // MB/s from there
  Status rateTo(Samples& samples) const;      // MB/s to there
  Status roundTrips(Samples& samples) const;  // milliseconds for a byte there and back
  Status connection(Samples& samples) const;  // milliseconds to connect and have a byte back
};

struct PodAt {
  std::string network;
  std::string address;
};
Result<PodAt> podAt(Client& client, const std::string& name, std::uint16_t hostPort = 0);

}  // namespace userpod::bench

// The host's main addresses, and word of their change: what host.userpod.internal leads to.
#pragma once

#include <string>

#include "daemon/sys/fd.hpp"

namespace userpod {

// Textual, without a prefix length; empty where the host has none. Never a loopback or link-local one.
struct HostAddresses {
  std::string v4;
  std::string v6;
  bool operator==(const HostAddresses&) const = default;
};

// Of the network namespace that the calling thread is in: the source address by which the default route leads out,
// without one the first address of an interface that is up. Nothing is sent. Takes some 20 us; any thread.
HostAddresses hostAddresses();

// A subscription to changes of links, addresses and routes of the network namespace that the opening thread is in;
// no privilege is needed. One thread at a time.
class HostAddressWatch {
 public:
  static Result<HostAddressWatch> open();

  // Non-blocking; readable when something has changed, several times for one change. A host that makes and drops many
  // interfaces says much: look again some 100 ms after the first word, not at each.
  int fd() const { return socket_.get(); }
  // Takes all words so far; without it fd() stays readable. Nobody has to know what they say: ask hostAddresses().
  void drain();

 private:
  explicit HostAddressWatch(UniqueFd socket) : socket_(std::move(socket)) {}
  UniqueFd socket_;
};

}  // namespace userpod

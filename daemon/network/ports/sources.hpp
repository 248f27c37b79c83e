// Sockets towards pods, with the client's own address as their source where that is possible.
#pragma once

#include <atomic>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "daemon/network/ports/service.hpp"
#include "daemon/sys/error.hpp"
#include "daemon/sys/fd.hpp"

namespace userpod::ports {

// A connection whose source is not an address of the node is kept in the node by the mark of its replies: their rules
// are in the table inet userpod, with the table of routes that takes them back.
inline constexpr int kMark = 0x75;

// The networks that the node itself is on: a client from there would not get its replies by way of the node.
class Networks {
 public:
  void add(const Endpoint& network, unsigned prefixLength);
  void setDefault(int family) { (family == AF_INET6 ? default6_ : default4_) = true; }
  bool contain(const Endpoint& client) const;
  bool haveDefault(int family) const { return family == AF_INET6 ? default6_ : default4_; }

 private:
  struct Network {
    Endpoint address;
    unsigned length;
  };
  std::vector<Network> all_;
  bool default4_ = false;
  bool default6_ = false;
};

struct Outgoing {
  UniqueFd fd;
  bool kept = false;  // the client's address
};

// Made, and probe() called, in the node's network namespace; connect() as well. Other methods: any thread.
class Sources {
 public:
  static Result<std::unique_ptr<Sources>> open();

  // Readable when the node's routes have changed: then refresh() is due, by one thread.
  int changes() const { return changes_.get(); }
  void refresh();
  // Whether the node brings replies back, tried once with a connection of its own. Takes some milliseconds where not.
  void probe();
  // Why no client's address of this family is kept; empty: they are.
  std::string problem(int family) const;

  // A non-blocking socket to the service, a TCP connection under way or a connected UDP socket. With `fullSource` the
  // client's port is kept too, when it is free.
  Result<Outgoing> connect(const Service& service, const Endpoint& client, int type, bool fullSource = true) const;

 private:
  Sources(UniqueFd changes, UniqueFd routes) : changes_(std::move(changes)), routes_(std::move(routes)) {}
  bool keeps(const Service& service, const Endpoint& client, const Endpoint& target) const;

  UniqueFd changes_;
  UniqueFd routes_;  // of refresh()'s thread
  mutable std::mutex mutex_;
  std::shared_ptr<const Networks> networks_ = std::make_shared<Networks>();  // guarded by mutex_
  std::string problem4_ = "not tried yet";                                   // guarded by mutex_
  std::string problem6_ = "not tried yet";                                   // guarded by mutex_
  std::atomic<bool> able4_ = false;
  std::atomic<bool> able6_ = false;
};

}  // namespace userpod::ports

// Many datagrams in one system call.
#pragma once

#include <netinet/in.h>
#include <sys/socket.h>

#include <array>
#include <cstddef>
#include <memory>
#include <optional>

#include "daemon/network/ports/endpoint.hpp"

namespace userpod::ports {

// Room for a batch that is received and then sent elsewhere. Its pages are there from the first use on.
class Datagrams {
 public:
  static constexpr unsigned kCount = 32;
  static constexpr std::size_t kSize = 64 << 10;  // the longest datagram fits

  Datagrams();
  // With the senders and the local addresses if `named`. 0: nothing there; -1: an error, which may be one that an
  // earlier datagram has met.
  int receive(int socket, bool named);

  const Endpoint& sender(unsigned index) const { return names_[index]; }
  struct Local {
    Endpoint address;  // that the sender wrote to
    int link = 0;
  };
  std::optional<Local> local(unsigned index) const;

  // Sends those of [first, first + count) to a connected socket. What its buffer does not take is lost.
  void send(int socket, unsigned first, unsigned count);
  // The same from an unconnected one, as from `local`.
  void sendTo(int socket, unsigned count, const Endpoint& to, const Local& local);

 private:
  void sendAll(int socket, unsigned first, unsigned count);

  std::unique_ptr<char[]> bytes_;
  std::array<mmsghdr, kCount> messages_{};
  std::array<iovec, kCount> vectors_{};
  std::array<Endpoint, kCount> names_{};
  union Control {
    cmsghdr alignment;
    char room[CMSG_SPACE(sizeof(in6_pktinfo))];
  };
  std::array<Control, kCount> controls_{};
};

}  // namespace userpod::ports

// rtnetlink: sockets and batches of requests. Message layouts: rtnetlink(7), linux/rtnetlink.h, linux/if_link.h.
#pragma once

#include <libmnl/libmnl.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

#include "daemon/sys/error.hpp"

namespace userpod {

// Requests that go to the kernel in one system call, carried out in order. Built by one thread. All content comes from
// this project, so a batch above kCapacity is a programmer's error and aborts.
class NetlinkBatch {
 public:
  static constexpr std::size_t kCapacity = 8192;  // bytes

  NetlinkBatch();

  // Starts a request and returns its zeroed fixed part (ifinfomsg, ifaddrmsg, rtmsg), to be filled before the next
  // call. `what` names it in an error: "add link upbr0". NLM_F_REQUEST and NLM_F_ACK are added to the flags.
  template <typename Body>
  Body& begin(std::uint16_t type, std::uint16_t flags, std::string what) {
    static_assert(std::is_trivially_copyable_v<Body>);
    return *static_cast<Body*>(start(type, flags, sizeof(Body), std::move(what)));
  }
  void put(std::uint16_t attribute, const void* data, std::size_t size);
  void putU8(std::uint16_t attribute, std::uint8_t value) { put(attribute, &value, sizeof(value)); }
  void putU32(std::uint16_t attribute, std::uint32_t value) { put(attribute, &value, sizeof(value)); }
  void putText(std::uint16_t attribute, const std::string& text) { put(attribute, text.c_str(), text.size() + 1); }
  void openNest(std::uint16_t attribute);
  void closeNest();
  // A zeroed struct without an attribute header, inside a nest (VETH_INFO_PEER begins with an ifinfomsg).
  template <typename Body>
  Body& raw() {
    return *static_cast<Body*>(extra(sizeof(Body)));
  }

 private:
  friend class Netlink;
  void* start(std::uint16_t type, std::uint16_t flags, std::size_t bodySize, std::string what);
  void* extra(std::size_t size);
  std::size_t used() const;  // with the message being built
  void require(std::size_t more) const;

  std::vector<char> buffer_;
  std::size_t begun_ = 0;           // offset of the message being built
  nlmsghdr* message_ = nullptr;     // that message
  std::vector<nlattr*> nests_;      // open ones, outermost first
  std::vector<std::string> names_;  // of the requests, in order
};

// A socket of the network namespace that the opening thread was in, whatever thread uses it later. One thread at a
// time.
class Netlink {
 public:
  static Result<Netlink> open();

  // Sends and waits for every acknowledgement. The kernel goes on after a failed request; the first failure is the
  // error, with the name of the request, errno and the kernel's own text.
  Status run(NetlinkBatch& batch);
  // Index of a link; sysErrno() is ENODEV when there is none.
  Result<unsigned> linkIndex(const std::string& name);
  // Every link of the namespace, as an RTM_NEWLINK message.
  Status dumpLinks(const std::function<void(const nlmsghdr&)>& each);

 private:
  struct Close {
    void operator()(mnl_socket* socket) const { mnl_socket_close(socket); }
  };
  explicit Netlink(mnl_socket* socket) : socket_(socket) {}
  Status receive(std::uint32_t first, const std::vector<std::string>& names, const std::string& all);

  std::unique_ptr<mnl_socket, Close> socket_;
  std::uint32_t sequence_ = 1;
  unsigned foundIndex_ = 0;  // of the last RTM_NEWLINK answer
};

}  // namespace userpod

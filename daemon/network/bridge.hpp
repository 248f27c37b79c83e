// The built-in bridge: links, addresses and routes by rtnetlink.
#pragma once

#include <string>

#include "daemon/network/nftables.hpp"
#include "daemon/sys/netlink.hpp"

namespace userpod::network {

inline constexpr const char* kBridge = "upbr0";

// Belongs to one thread, which has joined the node's network namespace: RTNL serialises link changes anyway, and
// several threads only wait for each other with a worse tail.
class Bridge {
 public:
  // Makes the bridge with the subnet's first address, or takes up the one that is there.
  static Result<Bridge> open(const Subnet& subnet);

  // A veth: `port.link` on the bridge, eth0 with address and default route in the pod. `pod` is a socket opened in the
  // pod's network namespace, podNamespace a descriptor of that namespace. After a failure, dropping the namespace
  // undoes everything: nothing here deletes a link, as that blocks for 24 ms.
  Status attach(const Port& port, Netlink& pod, int podNamespace);

 private:
  Bridge(Netlink node, const Subnet& subnet);
  Status makeBridge();
  void addVeth(NetlinkBatch& batch, const Port& port, int podNamespace) const;

  Netlink node_;
  Subnet subnet_;
  unsigned index_ = 0;
  bool ipv6_ = false;  // the kernel has it
};

}  // namespace userpod::network

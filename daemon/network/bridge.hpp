// The built-in bridge: links, addresses and routes by rtnetlink.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "daemon/network/addresses.hpp"
#include "daemon/sys/netlink.hpp"

namespace userpod::network {

inline constexpr const char* kBridge = "upbr0";

struct Subnets {
  Subnet v4;
  std::optional<Subnet6> v6;  // none: pods have no IPv6
};

// What a pod is on the bridge.
struct Port {
  std::string link;           // the node's end of the veth
  std::uint32_t address = 0;  // in the subnet: its IPv6 address and its MAC address follow from it

  Address6 address6(const Subnets& subnets) const { return subnets.v6->at(address - subnets.v4.base); }
};
std::string macText(std::uint32_t address);  // of the pod with this address: one to one

// The nodes' ends of pods' veths, whatever pods they are of; of the calling thread's network namespace.
Result<std::vector<std::string>> linksOfPods();
Status deleteLink(const std::string& name);  // with its other end: blocks for some 24 ms; a missing one is fine

// Belongs to one thread, which has joined the node's network namespace: RTNL serialises link changes anyway, and
// several threads only wait for each other with a worse tail.
class Bridge {
 public:
  // Makes the bridge with the subnets' first addresses, or takes up the one that is there.
  static Result<Bridge> open(const Subnets& subnets);

  // A veth: `port.link` on the bridge, eth0 with addresses and default routes in the pod. `pod` is a socket opened in
  // the pod's network namespace, podNamespace a descriptor of that namespace. After a failure, dropping the namespace
  // undoes everything: nothing here deletes a link, as that blocks for 24 ms.
  Status attach(const Port& port, Netlink& pod, int podNamespace);

 private:
  Bridge(Netlink node, const Subnets& subnets);
  Status makeBridge();
  void addVeth(NetlinkBatch& batch, const Port& port, int podNamespace) const;

  Netlink node_;
  Subnets subnets_;
  unsigned index_ = 0;
  bool ipv6_ = false;  // the kernel has it
};

}  // namespace userpod::network

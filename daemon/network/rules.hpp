// The node's nftables rules as commands of nft(8). Tables `inet userpod` (addresses, host ports) and `bridge userpod`
// (who may send what). Rules are written once; pods come and go as elements of sets and maps. Pure.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "daemon/network/bridge.hpp"
#include "daemon/store/model.hpp"

namespace userpod::network {

// Marks of what userpod-ports sends in a client's name, and of the replies to it, which the node takes for itself. Two,
// as what it sends would be routed to the node with the mark of replies. src_valid_mark must be 0.
inline constexpr std::uint32_t kForwardedMark = 0x75;
inline constexpr std::uint32_t kReplyMark = 0x76;
inline constexpr std::uint32_t kReplyTable = 117;

// Each of these replaces its chains, and keeps the elements of maps and sets, when it is run again.

// Replies to clients whose address userpod-ports has kept get kReplyMark.
std::string replyRules();
// Nothing from elsewhere reaches the node's 127.0.0.0/8, which route_localnet would allow, and nothing goes to the
// uplink that would reach the host's loopback.
std::string loopbackRules();
// The latter also of what goes past IP, from a packet socket; kernel 5.16.
std::string egressRules();
// Connections to a host port on one of the node's own addresses go to its pod; so does what the real host's name leads
// to.
std::string portRules();
// What leaves the pods' subnets takes the node's address. On the bridge, what was translated takes the bridge's, or the
// reply would go to the asking pod directly and from an address it does not know.
std::string natRules(const Subnets& subnets);
// A port of the bridge may send only from its pod's own addresses.
std::string guardRules(bool ipv6);
// Neighbours advertise only their own IPv6 addresses. By itself, as not every nftables can say it.
std::string neighbourRules();

std::string guardAdd(const Port& port, const Subnets& subnets, bool neighbours);
std::string guardRemove(const Port& port, const Subnets& subnets, bool neighbours);  // also of one that is not there
std::string guardFlush(bool ipv6, bool neighbours);

// The host ports of a pod at these addresses (the first of each family counts). SCTP is the caller's to refuse.
std::string portsAdd(const std::vector<PortMapping>& ports, const std::vector<std::string>& addresses);
// Also of those that are not there. Fails as a whole when one leads to another pod by now.
std::string portsRemove(const std::vector<PortMapping>& ports, const std::vector<std::string>& addresses);
std::string portsFlush();

// Where 10.0.2.2 leads: to an address of the real host, or, with none, nowhere but to the uplink.
std::string hostAddressRules(const std::string& address);

// The first address of each family; empty: there is none.
struct Addresses {
  std::string v4;
  std::string v6;
};
Addresses firstOfEach(const std::vector<std::string>& addresses);

}  // namespace userpod::network

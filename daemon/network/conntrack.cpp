#include "daemon/network/conntrack.hpp"

#include <arpa/inet.h>
#include <ifaddrs.h>
#include <libmnl/libmnl.h>
#include <linux/netfilter/nfnetlink_conntrack.h>
#include <netinet/in.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <memory>
#include <set>
#include <string>

namespace userpod::network {
namespace {

constexpr std::uint16_t kDump = (NFNL_SUBSYS_CTNETLINK << 8) | IPCTNL_MSG_CT_GET;
constexpr std::uint16_t kDelete = (NFNL_SUBSYS_CTNETLINK << 8) | IPCTNL_MSG_CT_DELETE;
constexpr std::size_t kLargestTuple = 256;

struct Flow {
  std::uint8_t family = 0;
  std::vector<char> original;  // CTA_TUPLE_ORIG with its header, as the kernel wrote it
};

using Bytes = std::string;  // an address, in network byte order

struct Search {
  const std::vector<PortMapping>* ports;
  std::set<Bytes> own;   // addresses of this namespace
  std::set<Bytes> pods;  // where flows may have been led
  std::vector<Flow> found;
};

using Socket = std::unique_ptr<mnl_socket, int (*)(mnl_socket*)>;

int attributeType(const nlattr* attribute) {
  return attribute->nla_type & NLA_TYPE_MASK;
}

const nlattr* childOf(const nlattr* parent, int type) {
  const auto* child = static_cast<const nlattr*>(mnl_attr_get_payload(parent));
  const char* end = reinterpret_cast<const char*>(parent) + parent->nla_len;
  for (; mnl_attr_ok(child, static_cast<int>(end - reinterpret_cast<const char*>(child))); child = mnl_attr_next(child))
    if (attributeType(child) == type) return child;
  return nullptr;
}

// Whether the flow was sent to one of the ports.
bool matches(const nlattr* tuple, const std::vector<PortMapping>& ports) {
  const nlattr* protocol = childOf(tuple, CTA_TUPLE_PROTO);
  if (protocol == nullptr) return false;
  const nlattr* number = childOf(protocol, CTA_PROTO_NUM);
  const nlattr* port = childOf(protocol, CTA_PROTO_DST_PORT);
  if (number == nullptr || port == nullptr || mnl_attr_get_u8(number) != IPPROTO_UDP) return false;
  int to = ntohs(mnl_attr_get_u16(port));
  return std::any_of(ports.begin(), ports.end(),
                     [&](const auto& mapping) { return mapping.protocol == 1 && mapping.hostPort == to; });
}

// An address of a tuple, of either family; empty: there is none.
Bytes addressIn(const nlattr* tuple, int type4, int type6) {
  const nlattr* ip = childOf(tuple, CTA_TUPLE_IP);
  const nlattr* address = ip == nullptr ? nullptr : childOf(ip, type4);
  if (ip != nullptr && address == nullptr) address = childOf(ip, type6);
  if (address == nullptr) return {};
  return {static_cast<const char*>(mnl_attr_get_payload(address)), mnl_attr_get_payload_len(address)};
}

const nlattr* tupleOf(const nlmsghdr* message, int type) {
  const auto* attribute = static_cast<const nlattr*>(mnl_nlmsg_get_payload_offset(message, sizeof(nfgenmsg)));
  const char* end = static_cast<const char*>(mnl_nlmsg_get_payload_tail(message));
  for (; mnl_attr_ok(attribute, static_cast<int>(end - reinterpret_cast<const char*>(attribute)));
       attribute = mnl_attr_next(attribute))
    if (attributeType(attribute) == type) return attribute;
  return nullptr;
}

int onFlow(const nlmsghdr* message, void* data) {
  auto* search = static_cast<Search*>(data);
  const auto* body = static_cast<const nfgenmsg*>(mnl_nlmsg_get_payload(message));
  const nlattr* original = tupleOf(message, CTA_TUPLE_ORIG);
  const nlattr* reply = tupleOf(message, CTA_TUPLE_REPLY);
  if (original == nullptr || original->nla_len > kLargestTuple || !matches(original, *search->ports)) return MNL_CB_OK;
  bool own = search->own.contains(addressIn(original, CTA_IP_V4_DST, CTA_IP_V6_DST));
  bool led = reply != nullptr && search->pods.contains(addressIn(reply, CTA_IP_V4_SRC, CTA_IP_V6_SRC));
  if (!own && !led) return MNL_CB_OK;
  const char* bytes = reinterpret_cast<const char*>(original);
  search->found.push_back({body->nfgen_family, {bytes, bytes + original->nla_len}});
  return MNL_CB_OK;
}

Status dump(const Socket& socket, Search& search) {
  std::array<char, 16384> buffer{};
  nlmsghdr* message = mnl_nlmsg_put_header(buffer.data());
  message->nlmsg_type = kDump;
  message->nlmsg_flags = NLM_F_REQUEST | NLM_F_DUMP;
  message->nlmsg_seq = 1;
  static_cast<nfgenmsg*>(mnl_nlmsg_put_extra_header(message, sizeof(nfgenmsg)))->nfgen_family = AF_UNSPEC;
  if (mnl_socket_sendto(socket.get(), message, message->nlmsg_len) < 0) return sysError("ask for tracked connections");
  for (;;) {
    ssize_t count = mnl_socket_recvfrom(socket.get(), buffer.data(), buffer.size());
    if (count < 0) return sysError("read tracked connections");
    int more = mnl_cb_run(buffer.data(), static_cast<std::size_t>(count), 1, mnl_socket_get_portid(socket.get()),
                          onFlow, &search);
    if (more < 0) return sysError("read tracked connections");
    if (more == 0) return {};
  }
}

// One that has ended meanwhile is fine.
Status remove(const Socket& socket, const Flow& flow) {
  std::array<char, 1024> buffer{};
  nlmsghdr* message = mnl_nlmsg_put_header(buffer.data());
  message->nlmsg_type = kDelete;
  message->nlmsg_flags = NLM_F_REQUEST | NLM_F_ACK;
  static_cast<nfgenmsg*>(mnl_nlmsg_put_extra_header(message, sizeof(nfgenmsg)))->nfgen_family = flow.family;
  std::memcpy(mnl_nlmsg_get_payload_tail(message), flow.original.data(), flow.original.size());
  message->nlmsg_len += static_cast<std::uint32_t>(MNL_ALIGN(flow.original.size()));
  if (mnl_socket_sendto(socket.get(), message, message->nlmsg_len) < 0) return sysError("forget a tracked connection");
  ssize_t count = mnl_socket_recvfrom(socket.get(), buffer.data(), buffer.size());
  if (count < 0) return sysError("forget a tracked connection");
  if (mnl_cb_run(buffer.data(), static_cast<std::size_t>(count), 0, 0, nullptr, nullptr) < 0 && errno != ENOENT)
    return sysError("forget a tracked connection");
  return {};
}

std::set<Bytes> ownAddresses() {
  std::set<Bytes> own;
  ifaddrs* list = nullptr;
  if (::getifaddrs(&list) < 0) return own;
  for (const auto* entry = list; entry != nullptr; entry = entry->ifa_next) {
    if (entry->ifa_addr == nullptr) continue;
    if (entry->ifa_addr->sa_family == AF_INET)
      own.emplace(reinterpret_cast<const char*>(&reinterpret_cast<const sockaddr_in*>(entry->ifa_addr)->sin_addr), 4);
    if (entry->ifa_addr->sa_family == AF_INET6)
      own.emplace(reinterpret_cast<const char*>(&reinterpret_cast<const sockaddr_in6*>(entry->ifa_addr)->sin6_addr),
                  16);
  }
  ::freeifaddrs(list);
  return own;
}

Bytes parsed(const std::string& address) {
  bool v6 = address.find(':') != std::string::npos;
  Bytes bytes(v6 ? 16 : 4, '\0');
  return ::inet_pton(v6 ? AF_INET6 : AF_INET, address.c_str(), bytes.data()) == 1 ? bytes : Bytes();
}

}  // namespace

Status forgetUdpFlows(const std::vector<PortMapping>& ports, const std::vector<std::string>& addresses) {
  Socket socket(mnl_socket_open2(NETLINK_NETFILTER, SOCK_CLOEXEC), mnl_socket_close);
  if (!socket || mnl_socket_bind(socket.get(), 0, MNL_SOCKET_AUTOPID) < 0) return sysError("open a netfilter socket");
  Search search{&ports, ownAddresses(), {}, {}};
  for (const auto& address : addresses) search.pods.insert(parsed(address));
  USERPOD_CHECK(dump(socket, search));
  for (const auto& flow : search.found) USERPOD_CHECK(remove(socket, flow));
  return {};
}

}  // namespace userpod::network

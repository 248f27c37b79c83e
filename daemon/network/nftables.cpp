#include "daemon/network/nftables.hpp"

#include <fmt/core.h>
#include <linux/netlink.h>
#include <sys/socket.h>

#include "daemon/sys/fd.hpp"
#include "daemon/sys/util.hpp"

namespace userpod::network {

Result<Nftables> Nftables::open() {
  // libnftables ends the whole process when it cannot open its socket (netlink_init_error calls exit): try first.
  UniqueFd probe(::socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_NETFILTER));
  if (!probe) return sysError("the kernel has no netfilter (CONFIG_NF_TABLES)").as(Code::NotSupported);
  probe.reset();
  Nftables nftables(nft_ctx_new(NFT_CTX_DEFAULT));
  if (!nftables.context_) return Error(Code::Internal, "libnftables gave no context");
  if (nft_ctx_buffer_output(nftables.context_.get()) != 0 || nft_ctx_buffer_error(nftables.context_.get()) != 0)
    return Error(Code::Internal, "libnftables gave no buffer for its output");
  return nftables;
}

Status Nftables::run(const std::string& commands) {
  int failed = nft_run_cmd_from_buffer(context_.get(), commands.c_str());
  // Reading empties the buffers, so both are read each time.
  std::string error(trim(nft_ctx_get_error_buffer(context_.get())));
  (void)nft_ctx_get_output_buffer(context_.get());
  if (failed == 0) return {};
  auto line = error.find('\n');
  return Error(Code::NetworkSetupFailed, "nftables: " + (error.empty() ? "no reason given" : error.substr(0, line)));
}

std::string macText(std::uint32_t address) {
  return fmt::format("0a:58:{:02x}:{:02x}:{:02x}:{:02x}", address >> 24, (address >> 16) & 255, (address >> 8) & 255,
                     address & 255);
}

std::string natRules(const Subnet& subnet) {
  return fmt::format(R"(add table inet userpod
add chain inet userpod postrouting {{ type nat hook postrouting priority 100; policy accept; }}
flush chain inet userpod postrouting
add rule inet userpod postrouting ip saddr {} oifname != "upbr0" masquerade
)",
                     subnet.text());
}

std::string guardRules() {
  // Ports of the bridge are named up<hex>; other bridges of the node are not ours. No pod has an IPv6 address yet, so
  // only what the link itself needs may be its source; router advertisements could redirect the neighbours. No
  // anonymous set of ranges: libnftables would read its elements back at each later command.
  return R"(add table bridge userpod
add set bridge userpod macs { type ifname . ether_addr; }
add set bridge userpod pods { type ifname . ether_addr . ipv4_addr; }
add chain bridge userpod prerouting { type filter hook prerouting priority -300; policy accept; }
flush chain bridge userpod prerouting
add rule bridge userpod prerouting iifname != "up*" accept
add rule bridge userpod prerouting iifname . ether saddr != @macs drop
add rule bridge userpod prerouting ether type ip iifname . ether saddr . ip saddr != @pods drop
add rule bridge userpod prerouting arp operation { request, reply } iifname . ether saddr . arp saddr ip != @pods drop
add rule bridge userpod prerouting ether type ip6 icmpv6 type nd-router-advert drop
add rule bridge userpod prerouting ether type ip6 ip6 saddr :: accept
add rule bridge userpod prerouting ether type ip6 ip6 saddr != fe80::/10 drop
)";
}

std::string guardAdd(const Port& port) {
  std::string mac = macText(port.address);
  return fmt::format(
      "add element bridge userpod macs {{ \"{0}\" . {1} }}\n"
      "add element bridge userpod pods {{ \"{0}\" . {1} . {2} }}\n",
      port.link, mac, addressText(port.address));
}

std::string guardRemove(const Port& port) {
  // Deleting an absent element fails, adding a present one does not: so both, in one transaction.
  std::string mac = macText(port.address);
  return guardAdd(port) + fmt::format(
                              "delete element bridge userpod macs {{ \"{0}\" . {1} }}\n"
                              "delete element bridge userpod pods {{ \"{0}\" . {1} . {2} }}\n",
                              port.link, mac, addressText(port.address));
}

}  // namespace userpod::network

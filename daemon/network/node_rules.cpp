#include "daemon/network/node_rules.hpp"

#include <arpa/inet.h>
#include <linux/fib_rules.h>
#include <linux/rtnetlink.h>
#include <sched.h>

#include <cerrno>
#include <future>

#include "daemon/network/conntrack.hpp"
#include "daemon/network/rules.hpp"
#include "daemon/sys/fd.hpp"
#include "daemon/sys/log.hpp"
#include "daemon/sys/netlink.hpp"

namespace userpod::network {
namespace {

constexpr std::uint32_t kLoopback = 1;  // index of lo
constexpr std::uint32_t kReplyPriority = 117;

Status addReplyRule(Netlink& netlink, std::uint8_t family) {
  NetlinkBatch rule;
  auto& body = rule.begin<fib_rule_hdr>(RTM_NEWRULE, NLM_F_CREATE | NLM_F_EXCL, "add the rule for replies");
  body.family = family;
  body.table = kReplyTable;
  body.action = FR_ACT_TO_TBL;
  // Without a priority of its own each new rule gets the next one, and is never there already.
  rule.putU32(FRA_PRIORITY, kReplyPriority);
  rule.putU32(FRA_FWMARK, kReplyMark);
  rule.putU32(FRA_FWMASK, 0xffffffff);
  auto added = netlink.run(rule);
  if (!added && added.error().sysErrno() != EEXIST) return added;
  NetlinkBatch route;
  auto& local = route.begin<rtmsg>(RTM_NEWROUTE, NLM_F_CREATE | NLM_F_REPLACE, "add the route of replies");
  local.rtm_family = family;
  local.rtm_table = kReplyTable;
  local.rtm_protocol = RTPROT_STATIC;
  local.rtm_scope = RT_SCOPE_HOST;
  local.rtm_type = RTN_LOCAL;
  route.putU32(RTA_OIF, kLoopback);
  return netlink.run(route);
}

Status addReplyRules() {
  USERPOD_TRY(netlink, Netlink::open());
  USERPOD_CHECK(addReplyRule(netlink, AF_INET));
  return pathExists("/proc/sys/net/ipv6") ? addReplyRule(netlink, AF_INET6) : Status();
}

void forgetFlows(const NodeRules::PodPorts& pod) {
  bool udp = std::any_of(pod.ports.begin(), pod.ports.end(), [](const auto& port) { return port.protocol == 1; });
  if (!udp) return;
  if (auto forgotten = forgetUdpFlows(pod.ports, pod.addresses); !forgotten)
    logWarning("clients that send UDP to a host port already may miss its pod: {}", forgotten.error());
}

}  // namespace

Result<std::unique_ptr<NodeRules>> NodeRules::open(const NodeInside& node) {
  std::unique_ptr<NodeRules> rules(new NodeRules);
  USERPOD_TRY(thread, EventLoop::start("network"));
  rules->thread_ = std::move(thread);
  USERPOD_CHECK(rules->run([&] { return rules->join(node.networkNamespace.get()); }));
  return rules;
}

Status NodeRules::run(const std::function<Status()>& function) {
  std::promise<Status> done;
  thread_->post([&] { done.set_value(function()); });
  return done.get_future().get();
}

Status NodeRules::join(int networkNamespace) {
  if (::setns(networkNamespace, CLONE_NEWNET) < 0) return sysError("join the node's network namespace");
  auto opened = Nftables::open();
  if (!opened) {
    note_ = "host ports are not translated inside of the node: " + opened.error().text();
    return {};
  }
  nftables_ = std::move(*opened);
  Status written = nftables_->run(loopbackRules());
  if (written) written = nftables_->run(portRules());
  // 127.0.0.1 of the node as the source of what goes to a host port's pod: safe only with loopbackRules().
  if (written) written = writeFile("/proc/sys/net/ipv4/conf/all/route_localnet", "1");
  if (!written)
    note_ = "host ports are not translated inside of the node (CONFIG_NFT_NAT, CONFIG_NFT_FIB_INET): " +
            written.error().text();
  if (auto egress = nftables_->run(egressRules()); !egress) logDebug("{}", egress.error());
  // Without it userpod-ports does not keep the clients' addresses, and says so.
  Status replies = nftables_->run(replyRules());
  if (replies) replies = addReplyRules();
  if (!replies) logWarning("pods do not see who connects to their host ports: {}", replies.error());
  return {};
}

Status NodeRules::replacePorts(const std::vector<PodPorts>& pods) {
  if (!note_.empty()) return {};
  std::string commands = portsFlush();
  for (const auto& pod : pods) commands += portsAdd(pod.ports, pod.addresses);
  return run([&]() -> Status {
    if (nftables_->run(commands)) return {};
    // One that conflicts must not keep the others from being right.
    USERPOD_CHECK(nftables_->run(portsFlush()));
    Status failed;
    for (const auto& pod : pods)
      if (auto added = nftables_->run(portsAdd(pod.ports, pod.addresses)); !added) failed = std::move(added);
    return failed;
  });
}

Status NodeRules::addPorts(const PodPorts& pod) {
  if (!note_.empty()) return {};
  return run([&]() -> Status {
    USERPOD_CHECK(nftables_->run(portsAdd(pod.ports, pod.addresses)));
    // A client that has asked before goes on to nowhere, as its packets follow the translation that they found then.
    forgetFlows(pod);
    return {};
  });
}

Status NodeRules::removePorts(const PodPorts& pod) {
  if (!note_.empty()) return {};
  return run([&]() -> Status {
    USERPOD_CHECK(nftables_->run(portsRemove(pod.ports, pod.addresses)));
    forgetFlows(pod);
    return {};
  });
}

Status NodeRules::leadHostTo(const std::string& address) {
  if (!note_.empty()) return {};
  return run([&] { return nftables_->run(hostAddressRules(address)); });
}

}  // namespace userpod::network

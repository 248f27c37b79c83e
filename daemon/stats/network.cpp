#include "daemon/stats/network.hpp"

#include <linux/if_link.h>
#include <linux/rtnetlink.h>
#include <net/if.h>
#include <sched.h>

#include <algorithm>
#include <cstring>

#include "daemon/sys/executor.hpp"
#include "daemon/sys/log.hpp"
#include "daemon/sys/netlink.hpp"
#include "daemon/sys/util.hpp"

namespace userpod::stats {
namespace {

// A privileged pod may make as many as it likes.
constexpr std::size_t kMostInterfaces = 64;

void parseLink(const nlmsghdr& message, std::vector<InterfaceFigures>& interfaces) {
  const auto* link = static_cast<const ifinfomsg*>(mnl_nlmsg_get_payload(&message));
  if ((link->ifi_flags & IFF_LOOPBACK) != 0 || interfaces.size() == kMostInterfaces) return;
  InterfaceFigures figures;
  const auto* end = static_cast<const char*>(mnl_nlmsg_get_payload_tail(&message));
  const auto* attribute = static_cast<const nlattr*>(mnl_nlmsg_get_payload_offset(&message, sizeof(ifinfomsg)));
  for (; mnl_attr_ok(attribute, static_cast<int>(end - reinterpret_cast<const char*>(attribute)));
       attribute = mnl_attr_next(attribute)) {
    auto type = mnl_attr_get_type(attribute);
    if (type == IFLA_IFNAME) figures.name = excerpt(mnl_attr_get_str(attribute), IFNAMSIZ);  // any bytes are allowed
    if (type != IFLA_STATS64) continue;
    rtnl_link_stats64 stats{};
    std::memcpy(&stats, mnl_attr_get_payload(attribute),
                std::min<std::size_t>(sizeof(stats), mnl_attr_get_payload_len(attribute)));
    figures.receivedBytes = stats.rx_bytes;
    figures.receivedPackets = stats.rx_packets;
    figures.receiveErrors = stats.rx_errors;
    figures.receiveDrops = stats.rx_dropped;
    figures.sentBytes = stats.tx_bytes;
    figures.sentPackets = stats.tx_packets;
    figures.sendErrors = stats.tx_errors;
    figures.sendDrops = stats.tx_dropped;
  }
  interfaces.push_back(std::move(figures));
}

Status readNamespace(const std::string& path, std::vector<InterfaceFigures>& interfaces) {
  {
    USERPOD_TRY(file, openFile(path, O_RDONLY));
    if (::setns(file.get(), CLONE_NEWNET) < 0) return sysError("join " + path);
  }
  USERPOD_TRY(netlink, Netlink::open());
  USERPOD_CHECK(netlink.dumpLinks([&](const nlmsghdr& message) { parseLink(message, interfaces); }));
  std::stable_partition(interfaces.begin(), interfaces.end(),
                        [](const InterfaceFigures& figures) { return figures.name == "eth0"; });
  return {};
}

}  // namespace

std::vector<std::vector<InterfaceFigures>> readInterfaces(const std::vector<std::string>& namespaces) {
  std::vector<std::vector<InterfaceFigures>> figures(namespaces.size());
  if (std::all_of(namespaces.begin(), namespaces.end(), [](const auto& path) { return path.empty(); })) return figures;
  auto read = inOwnThread([&]() -> Status {
    for (std::size_t i = 0; i < namespaces.size(); ++i) {
      if (namespaces[i].empty()) continue;
      if (auto done = readNamespace(namespaces[i], figures[i]); !done) {
        logDebug("network figures: {}", done.error().text());
        figures[i].clear();
      }
    }
    return {};
  });
  if (!read) logWarning("network figures: {}", read.error().text());
  return figures;
}

}  // namespace userpod::stats

// The texts of a pod's resolv.conf and hosts. Pure.
#pragma once

#include <string>
#include <vector>

#include "daemon/store/model.hpp"
#include "daemon/sys/error.hpp"

namespace userpod::network {

// As asked for. InvalidArgument names the field with a line break, blank or other byte that could begin another line.
Result<std::string> resolvConf(const DnsConfig& dns);
// With an uplink it names the host too.
std::string podHosts(const std::string& hostname, const std::vector<std::string>& addresses, bool uplink);
Status checkHostname(const std::string& hostname);

}  // namespace userpod::network

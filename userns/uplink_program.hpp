// Which program joins the node's tap to the host's network, and with what arguments. Sources: passt(1), slirp4netns(1).
#pragma once

#include <sys/types.h>

#include <string>
#include <string_view>
#include <vector>

#include "policy/settings.hpp"
#include "userns/resolver.hpp"

namespace userpod {

struct UplinkProgram {
  std::string name;  // pasta, slirp4netns; empty: none was found
  std::string path;
  std::string reason;  // why this one and no other; without a program, what to install
};

// Of the options that the uplink needs, those that are missing in what `pasta --help` says.
std::vector<std::string> missingPastaOptions(std::string_view help);
// By the settings `uplink`, `pasta` and `slirp4netns`: not for "none". Starts `pasta --help`; some 5 ms.
UplinkProgram chooseUplink(const Settings& settings);

struct UplinkPlan {
  pid_t node = 0;       // the node's PID 1; the program is started in the host's namespaces
  std::string prefix6;  // of the node's IPv6 addresses, "fd00::"; empty: no IPv6
  bool hostLoopback = false;
  NameServers servers;  // of the host, for pasta, which reads resolv.conf at its start only
};

// The prefix that slirp4netns has fixed, and the one for pasta on a host that uses that itself.
constexpr std::string_view kUplinkPrefix6 = "fd00::";
constexpr std::string_view kOtherPrefix6 = "fd75:7064:2::";

// The command, for a tap that is there and configured. It serves in the foreground, says that it is ready with any
// bytes on descriptor 1 (pasta) or 3 (slirp4netns), and slirp4netns ends when descriptor 4 does.
std::vector<std::string> uplinkCommand(const UplinkProgram& program, const UplinkPlan& plan);

}  // namespace userpod

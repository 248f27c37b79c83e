// What the node's PID 1 does once, inside its fresh namespaces, before it turns into a mere reaper.
#pragma once

#include <string>
#include <vector>

#include "policy/settings.hpp"

namespace userpod {

struct NodePlan {
  Paths paths;
  bool uplink = true;   // make the tap that the uplink will take
  std::string prefix6;  // of its IPv6 addresses towards the uplink, "fd00::", a /64; empty: it has none
};

// Fresh proc, sysfs and cgroup2, writable system paths, kubelet's and CNI's fixed directories.
Status setUpNodeMounts(const NodePlan& plan);

// lo; with plan.uplink a persistent tap0 with its addresses and routes, so that these outlive the uplink; forwarding
// on. A tap that cannot be made is not an error: `tapProblem` says why and the node stays without a way out.
Status setUpNodeNetwork(const NodePlan& plan, std::string& tapProblem);

// Host's own use of fd00::/64, which slirp4netns hard-codes. Called on the host.
bool hostUsesUplinkPrefix();

}  // namespace userpod

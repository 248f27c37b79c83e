// What a pod asks of its network, as plugins get it: runtimeConfig by capability, and CNI_ARGS. Pure; any thread.
// facts: https://github.com/containernetworking/cni/blob/main/CONVENTIONS.md; containerd and CRI-O for the rest.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "daemon/network/cni/config.hpp"
#include "daemon/store/model.hpp"

namespace userpod::network::cni {

inline constexpr const char* kIngressBandwidth = "kubernetes.io/ingress-bandwidth";
inline constexpr const char* kEgressBandwidth = "kubernetes.io/egress-bandwidth";
inline constexpr const char* kMac = "org.userpod.cni/mac";        // 02:00:00:12:34:56
inline constexpr const char* kAddresses = "org.userpod.cni/ips";  // addresses, each with a prefix length or not
inline constexpr const char* kAddressRanges = "org.userpod.cni/ip-ranges";  // subnets, or JSON as host-local's ranges

// A quantity of Kubernetes ("1.5M", "10Mi", "1e6"), rounded up to a whole number. InvalidArgument for what is none, is
// negative or does not fit.
Result<std::int64_t> parseQuantity(const std::string& text);

// The member of runtimeConfig for each capability that has something to say. `cgroup`: of the pod, below the node's
// root. InvalidArgument names the annotation that is wrong.
Result<Json> capabilityArgs(const PodConfig& config, const std::string& cgroup);
// InvalidArgument when an annotation asks for what no plugin of the network takes: an address that is not given must
// not look as if it were.
Status checkTaken(const NetworkConfig& network, const PodConfig& config);

// In the order that Kubernetes runtimes write them. InvalidArgument for a name that would end its value.
using CniArgs = std::vector<std::pair<std::string, std::string>>;
Result<CniArgs> cniArgs(const std::string& podId, const PodConfig& config);

// What the plugin gets on its standard input. prevResult: null for none.
Json pluginInput(const NetworkConfig& network, const PluginConfig& plugin, const Json& prevResult,
                 const Json& capabilities);

}  // namespace userpod::network::cni

// Pod networks: namespaces and their pins, the built-in bridge, addresses, NAT, and the DNS files.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "daemon/store/model.hpp"
#include "daemon/sys/error.hpp"
#include "policy/settings.hpp"
#include "userns/node.hpp"

namespace userpod::network {

// Where the namespaces of a pod are: paths inside the node for the OCI spec. With the node's network or IPC they are
// explicit paths to the node's own, never empty: an omitted one would be the host's.
struct PodNamespaces {
  std::string network;
  std::string ipc;
  std::string uts;
};

struct PodNetwork {
  PodNamespaces namespaces;
  std::vector<std::string> addresses;  // textual; empty for the node's network
};

// All methods block (1 to 10 ms), may be called from any worker thread and are safe to call at once for different pods.
// Threads that change their namespaces are made and ended inside.
class Network {
 public:
  // Makes the bridge, the addresses and the nftables rules in the node when they are not there (a daemon restart finds
  // them and keeps them), and mounts the tmpfs of pins at paths.node. `inUse`: address of each pod that lives.
  // ConfigInvalid for a bad subnet. A kernel without nftables is no error: see note().
  static Result<std::unique_ptr<Network>> open(const Paths& paths, const Settings& settings, const NodeInside& node,
                                               const std::vector<std::string>& inUse);
  virtual ~Network() = default;

  // Namespaces (net unless the node's, ipc unless the node's, uts with the host name), pins, veth, address, sysctls.
  // Also /dev/shm of the pod at podDirectory/shm: a tmpfs of 64 MiB, or the one shared by pods with the node's IPC.
  // Called again for the same id after a crash, it undoes what is there and starts anew. Nothing is left on failure.
  // InvalidArgument for a bad host name or sysctl, NetworkSetupFailed when no address is free.
  virtual Result<PodNetwork> setUp(const std::string& podId, const PodConfig& config) = 0;
  // The namespaces of a pod that exists already (daemon restart).
  virtual PodNamespaces namespacesOf(const std::string& podId, const PodConfig& config) const = 0;
  // Frees address and rules, unpins, unmounts shm. Unknown ids and repetition are fine, also when an address has gone
  // to another pod since. The kernel reaps the veth with its namespace, once no process is left in it.
  virtual Status tearDown(const std::string& podId, const std::vector<std::string>& addresses) = 0;
  // Empty when pods can get a network; else what is wrong, for the NetworkReady condition.
  virtual std::string problem() const = 0;
  // What pods lack although they get a network (address translation on a kernel without nftables); else empty.
  virtual std::string note() const = 0;
  virtual std::string stack() const = 0;  // "bridge"
};

// Close-on-exec and non-blocking.
struct TcpSockets {
  UniqueFd v4;
  UniqueFd v6;  // none where the namespace has no IPv6
};
// Made in the network namespace at this path, by a thread of its own. Blocks for about 0.1 ms.
Result<TcpSockets> socketsIn(const std::string& networkNamespace);

struct LoopbackListeners {
  UniqueFd host;  // of the network namespace that the daemon is in
  UniqueFd node;
  std::uint16_t port = 0;  // of both
};
// Close-on-exec, non-blocking, backlog as long as the kernel allows. NetworkSetupFailed: no port is free in both.
Result<LoopbackListeners> listenOnLoopback(int nodeNetworkNamespace);

// resolv.conf, hosts and hostname of a pod in its directory. The node's resolv.conf when config.dns is absent or empty;
// the node's hosts file when there are no addresses (the node's network). InvalidArgument names the field that is
// wrong.
Status writePodFiles(const std::string& directory, const PodConfig& config, const std::string& hostname,
                     const std::vector<std::string>& addresses);

}  // namespace userpod::network

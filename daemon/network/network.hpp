// Pod networks: namespaces and their pins, the built-in bridge or CNI, host ports, and the DNS files.
#pragma once

#include <map>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "daemon/network/cni/cni.hpp"
#include "daemon/network/ports/ports.hpp"
#include "daemon/store/model.hpp"
#include "daemon/sys/error.hpp"
#include "daemon/sys/finding.hpp"
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
  std::vector<std::string> addresses;  // textual, primary first; empty for the node's network
};

// What a starting daemon knows of the one before it.
struct Earlier {
  std::vector<PodRecord> living;              // ready, and of this node
  std::map<std::string, std::int64_t> freed;  // address -> when, by bootNanos()
};

// For people: how packets go. Everything is textual.
struct NetworkView {
  std::string stack;  // "bridge", "cni"
  std::string bridge;
  std::vector<std::string> subnets;
  std::vector<std::string> gateways;
  std::size_t addressesUsed = 0;
  std::size_t addressesAll = 0;
  std::vector<CniNetwork> cni;
  std::string uplink;         // "up", "down: REASON", "none"
  std::string uplinkProgram;  // its path; empty where none has run
  std::string uplinkChoice;   // why this program
  std::string hostAddress;
  std::vector<PublishedPort> ports;
  std::string problem;
  std::string note;
};

// The node's end of a pod's veth on the built-in bridge.
std::string linkName(const std::string& podId);

// All methods block (1 to 10 ms; with CNI as long as the plugins take), may be called from any worker thread and are
// safe to call at once for different pods. Threads that change their namespaces are made and ended inside.
class Network {
 public:
  // Makes what the node's network needs when it is not there (a daemon restart finds it and keeps it), and mounts the
  // tmpfs of pins at paths.node. Host ports of the living pods are served again, those of others no more.
  // ConfigInvalid for a bad subnet. A kernel without nftables is no error: see note(). ports: other than the usual, in
  // tests.
  static Result<std::unique_ptr<Network>> open(const Paths& paths, const LiveSettings& settings, const NodeInside& node,
                                               const Earlier& earlier, std::unique_ptr<Ports> ports = nullptr);
  virtual ~Network() = default;

  // Addresses for a pod that is to be made, to be written down in its record before anything else is done: empty for
  // the node's network, and where plugins choose. Does not block. InvalidArgument for host ports that cannot be (SCTP),
  // NetworkSetupFailed when no address is free.
  virtual Result<std::vector<std::string>> reserve(const std::string& podId, const PodConfig& config) = 0;
  // Namespaces (net unless the node's, ipc unless the node's, uts with the host name), pins, eth0, host ports, sysctls.
  // Also /dev/shm of the pod at podDirectory/shm: a tmpfs of 64 MiB, or the one shared by pods with the node's IPC.
  // Nothing is left on failure. InvalidArgument for a bad host name or sysctl, NetworkSetupFailed for a taken port.
  virtual Result<PodNetwork> setUp(const PodRecord& pod, const std::string& hostname) = 0;
  // The namespaces of a pod that exists already (daemon restart).
  virtual PodNamespaces namespacesOf(const PodRecord& pod) const = 0;
  // Frees addresses and rules, unpins, unmounts shm. Repetition is fine, and an id alone, of which nothing is known,
  // also when an address or port has gone to another pod since. The kernel reaps the veth with its namespace, once no
  // process is left in it.
  virtual Status tearDown(const PodRecord& pod) = 0;
  // The core has taken up or undone what an earlier daemon left. Until then tearDown() of pods that were not living
  // waits for plugins for some seconds in all, and leaves to the background what they have not done by then.
  virtual void recovered() = 0;
  // The daemon ends: plugins that run are killed and none is started, so that no worker waits for one. Calls that would
  // need one are Canceled; the next daemon undoes what they were about.
  virtual void stop() = 0;
  // After a change of the host's addresses: leads host.userpod.internal to the main one.
  virtual void followHost() = 0;
  // Empty when pods can get a network; else what is wrong, for the NetworkReady condition. Does not block.
  virtual std::string problem() const = 0;
  // What pods lack although they get a network (address translation on a kernel without nftables); else empty.
  virtual std::string note() const = 0;
  virtual std::string stack() const = 0;  // "bridge", "cni"
  virtual NetworkView view() = 0;
  // Links and host ports of pods that are not among these. A veth lives on for a moment after its pod.
  virtual Findings check(const std::set<std::string>& known) = 0;
  virtual Status mend(const Finding& finding) = 0;
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

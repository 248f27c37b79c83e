// Host ports of pods outside of what nftables can do: the process userpod-ports, and how the daemon talks to it.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "daemon/store/model.hpp"
#include "daemon/sys/error.hpp"
#include "policy/settings.hpp"
#include "userns/node.hpp"

namespace userpod::network {

// The host ports of one pod and where they lead.
struct PublishedPod {
  std::string podId;
  std::vector<std::string> addresses;  // of the pod, or of the node for a pod of the node's network; at most one each
                                       // of IPv4 and IPv6 is used, the first
  std::vector<PortMapping> ports;      // those with hostPort 0 are left out
  bool nodeNetwork = false;            // the pod itself listens in the node: nothing is held there
};

// One mapping as it is served now, for people.
struct PublishedPort {
  std::string podId;
  PortMapping mapping;
  std::uint16_t listenPort = 0;   // in the host's network namespace: hostPort, or it plus the offset
  std::vector<std::string> host;  // addresses that are listened on in the host's network namespace
  std::vector<std::string> node;  // the same in the node's
  std::string sourceNote;         // where and why the client's address is not kept; empty: it is
  std::uint64_t connections = 0;  // TCP connections or UDP flows open now
  std::uint64_t total = 0;        // since the port was published
};

// All methods may be called from any worker thread; they block for some milliseconds, for some seconds where the
// process does not answer and is replaced.
class Ports {
 public:
  // Takes up the userpod-ports of an earlier daemon if one runs; else one is started with the first port. It ends with
  // the node. `node` must outlive the result.
  static Result<std::unique_ptr<Ports>> open(const Paths& paths, const Settings& settings, const NodeInside& node);
  virtual ~Ports() = default;  // userpod-ports stays, with its connections

  // Listens at all ports of the pod, or at none. Again for the same pod: replaces what it had, connections stay.
  // A taken port is NetworkSetupFailed and names port and address, and who is known to hold it; NotSupported for SCTP;
  // InvalidArgument for an address that neither host nor node has; AccessDenied for a port below
  // net.ipv4.ip_unprivileged_port_start, with the two mends.
  virtual Status publish(const PublishedPod& pod) = 0;
  // Stops listening and ends the pod's connections. Unknown pods are fine.
  virtual Status withdraw(const std::string& podId) = 0;
  // After a restart of the daemon: publishes these where they are not, withdraws all others. The problems of single
  // pods are logged, not returned.
  virtual Status synchronise(const std::vector<PublishedPod>& living) = 0;
  virtual Result<std::vector<PublishedPort>> list() = 0;
};

}  // namespace userpod::network

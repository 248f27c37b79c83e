// What the node's network namespace needs once, whatever kind of network its pods have: rules for host ports, and the
// way back of replies to clients whose address userpod-ports has kept.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "daemon/network/nftables.hpp"
#include "daemon/store/model.hpp"
#include "daemon/sys/executor.hpp"
#include "userns/node.hpp"

namespace userpod::network {

// Any thread, but for what run() runs.
class NodeRules {
 public:
  // Starts the network thread, which joins the node's network namespace, and writes the rules.
  static Result<std::unique_ptr<NodeRules>> open(const NodeInside& node);

  // In the network thread, one after the other; blocks until done.
  Status run(const std::function<Status()>& function);
  // Only inside of run(). Null on a kernel without nftables.
  Nftables* nftables() { return nftables_ ? &*nftables_ : nullptr; }

  struct PodPorts {
    std::vector<PortMapping> ports;
    std::vector<std::string> addresses;
  };
  // What all of them have, and nothing else.
  Status replacePorts(const std::vector<PodPorts>& pods);
  Status addPorts(const PodPorts& pod);
  Status removePorts(const PodPorts& pod);
  // Where host.userpod.internal leads: the real host's address; empty: to the uplink.
  Status leadHostTo(const std::string& address);

  // Why host ports do not work inside of the node by translation; empty: they do.
  const std::string& note() const { return note_; }

 private:
  NodeRules() = default;
  Status join(int networkNamespace);

  std::optional<Nftables> nftables_;  // the network thread's own
  std::string note_;                  // set before open() returns
  std::unique_ptr<EventLoop> thread_;
};

}  // namespace userpod::network

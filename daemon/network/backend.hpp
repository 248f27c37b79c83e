// How a pod's own network namespace joins a network: by the built-in bridge or by CNI plugins.
#pragma once

#include <memory>
#include <set>
#include <string>
#include <vector>

#include "daemon/network/network.hpp"
#include "daemon/network/node_rules.hpp"

namespace userpod::network {

struct Joined {
  std::vector<std::string> addresses;  // textual, primary first
  bool mapsPorts = false;              // host ports inside of the node are done
};

// Any worker thread, for different pods at once.
class Backend {
 public:
  virtual ~Backend() = default;
  // Addresses that the pod will get, if that is known before it is made; quick.
  virtual Result<std::vector<std::string>> reserve(const std::string& podId) = 0;
  // lo up, eth0 with addresses and routes. NetworkSetupFailed, NotReady. The pod's network namespace is pinned at that
  // path; the calling thread is in it, and in the pod's others, if joinsInside(), else in the daemon's.
  virtual Result<Joined> join(const PodRecord& pod, const std::string& pin) = 0;
  virtual bool joinsInside() const = 0;
  // What a pod of an earlier daemon has.
  virtual Joined joined(const PodRecord& pod) = 0;
  // Before the namespace is unpinned; it may be gone already. Repetition is fine.
  virtual Status leave(const PodRecord& pod, const std::string& pin) = 0;
  // After it is: the addresses may be given to others.
  virtual void release(const PodRecord& pod) = 0;
  // The core has taken up or undone what an earlier daemon left; until then leave() waits for nobody's programs long.
  virtual void recovered() {}
  // The daemon ends: nothing waits for others' programs any more. Repetition is fine.
  virtual void stop() {}
  virtual std::string problem() const = 0;
  virtual std::string note() const = 0;
  virtual std::string stack() const = 0;
  virtual void describe(NetworkView& view) const = 0;
};

// Both take up the pods that live.
Result<std::unique_ptr<Backend>> openBridge(const LiveSettings& settings, NodeRules& rules, const Earlier& earlier);
Result<std::unique_ptr<Backend>> openCni(const Paths& paths, const LiveSettings& settings, const NodeInside& node,
                                         const Earlier& earlier);

}  // namespace userpod::network

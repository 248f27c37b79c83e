// Reads figures when they are asked for, and scans writable layers in the background. Nothing here starts a process;
// only the scans walk trees.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "daemon/stats/figures.hpp"
#include "userns/node.hpp"

namespace userpod::stats {

using Containers = std::vector<std::shared_ptr<const ContainerRecord>>;

struct PodPlace {
  std::shared_ptr<const PodRecord> pod;
  std::string network;    // path of its own network namespace; empty: it has the node's
  Containers containers;  // whose figures are wanted with the pod's
};

// read() blocks for the time of some reads (30 to 100 microseconds a container); any thread, several at once.
class Stats {
 public:
  // Where the writable layer of a container is, absolute. Asked for by the thread that scans, and by those that call
  // read() for Detail::All.
  using LayerPath = std::function<std::string(const std::string& id)>;
  // The node outlives it.
  static std::unique_ptr<Stats> open(const NodeInside& node, LayerPath path);
  virtual ~Stats() = default;

  virtual std::vector<ContainerFigures> read(const Containers& containers, Detail detail) = 0;
  virtual std::vector<PodFigures> read(const std::vector<PodPlace>& pods, Detail detail) = 0;

  // A container has a writable layer: one that is new is scanned soon, one that is asked for by read() or layerTotal()
  // again and again, one whose container has ended (`resting`) a last time. Quick; repeating it is fine.
  virtual void followLayer(const std::string& id, bool resting) = 0;
  virtual void forget(const std::string& id) = 0;  // of a container or pod that is no more
  // Of all writable layers together, as last scanned. The timestamp is that of the oldest scan: what rests is as it was
  // then, and where nothing else is, it is now.
  virtual LayerFigures layerTotal() = 0;
};

}  // namespace userpod::stats

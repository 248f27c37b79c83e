// Reads figures when they are asked for, and scans writable layers in the background. Nothing here starts a process;
// only the scans walk trees.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "daemon/stats/figures.hpp"
#include "userns/node.hpp"

namespace userpod::stats {

// Where the figures of a container or a pod are.
struct ContainerPlace {
  std::shared_ptr<const ContainerRecord> container;
  std::string layer;  // its writable layer, absolute; empty: none
};

struct PodPlace {
  std::shared_ptr<const PodRecord> pod;
  std::string network;  // path of its own network namespace; empty: it has the node's
  std::vector<ContainerPlace> containers;
};

// read() blocks for the time of some reads (30 to 100 microseconds a container); any thread, several at once.
class Stats {
 public:
  // The node outlives it.
  static std::unique_ptr<Stats> open(const NodeInside& node);
  virtual ~Stats() = default;

  virtual std::vector<ContainerFigures> read(const std::vector<ContainerPlace>& containers, Detail detail) = 0;
  virtual std::vector<PodFigures> read(const std::vector<PodPlace>& pods, Detail detail) = 0;

  // The writable layers that there are; what is not among them is forgotten. A layer that is new is scanned soon, one
  // that is asked for by read() again and again, one whose container has ended (`resting`) a last time.
  struct Layer {
    std::string id;  // of the container
    std::string path;
    bool resting = false;
  };
  virtual void setLayers(std::vector<Layer> layers) = 0;
  // Of all writable layers together, as last scanned, and when the oldest of these scans ended (0: none).
  virtual LayerFigures layerTotal() const = 0;
};

}  // namespace userpod::stats

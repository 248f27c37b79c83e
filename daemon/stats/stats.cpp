#include "daemon/stats/stats.hpp"

namespace userpod::stats {
namespace {

class Reader final : public Stats {
 public:
  std::vector<ContainerFigures> read(const std::vector<ContainerPlace>& containers, Detail) override {
    std::vector<ContainerFigures> figures;
    for (const auto& place : containers) figures.push_back({place.container, {}, {}, {}});
    return figures;
  }
  std::vector<PodFigures> read(const std::vector<PodPlace>& pods, Detail detail) override {
    std::vector<PodFigures> figures;
    for (const auto& place : pods) figures.push_back({place.pod, {}, 0, {}, read(place.containers, detail)});
    return figures;
  }
  void setLayers(std::vector<Layer>) override {}
  LayerFigures layerTotal() const override { return {}; }
};

}  // namespace

std::unique_ptr<Stats> Stats::open(const NodeInside&) {
  return std::make_unique<Reader>();
}

}  // namespace userpod::stats

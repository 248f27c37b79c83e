// Where the figures of containers and pods are read, and by whom.
#include "daemon/core/core_impl.hpp"

namespace userpod::core {

stats::ContainerPlace CoreImpl::placeOf(const std::shared_ptr<const ContainerRecord>& container) const {
  return {container, storage_->writableLayer(container->id)};
}

stats::PodPlace CoreImpl::placeOf(const std::shared_ptr<const PodRecord>& pod) const {
  stats::PodPlace place{pod, "", {}};
  bool own = pod->config.security.namespaces.network != NamespaceMode::Node;
  if (own && pod->state == PodRecord::State::Ready) place.network = network_->namespacesOf(*pod).network;
  return place;
}

void CoreImpl::containerFigures(std::vector<std::shared_ptr<const ContainerRecord>> containers, stats::Detail detail,
                                std::function<void(std::vector<stats::ContainerFigures>)> done) {
  statsWorker_->submit([this, containers = std::move(containers), detail, done = std::move(done)] {
    std::vector<stats::ContainerPlace> places;
    places.reserve(containers.size());
    for (const auto& container : containers) places.push_back(placeOf(container));
    done(stats_->read(places, detail));
  });
}

void CoreImpl::podFigures(std::vector<std::shared_ptr<const PodRecord>> pods, stats::Detail detail,
                          std::function<void(std::vector<stats::PodFigures>)> done) {
  statsWorker_->submit([this, pods = std::move(pods), detail, done = std::move(done)] {
    auto now = snapshot();
    std::vector<stats::PodPlace> places;
    places.reserve(pods.size());
    std::unordered_map<std::string_view, std::size_t> byId;  // of places
    for (const auto& pod : pods) {
      byId.emplace(pod->id, places.size());
      places.push_back(placeOf(pod));
    }
    for (const auto& container : now->containers) {
      if (container->state != ContainerRecord::State::Running) continue;
      if (auto found = byId.find(container->podId); found != byId.end())
        places[found->second].containers.push_back(placeOf(container));
    }
    done(stats_->read(places, detail));
  });
}

}  // namespace userpod::core

// Where the figures of containers, pods and disks are read, and by whom.
#include "daemon/core/core_impl.hpp"

namespace userpod::core {

void CoreImpl::containerFigures(std::vector<std::shared_ptr<const ContainerRecord>> containers, stats::Detail detail,
                                std::function<void(std::vector<stats::ContainerFigures>)> done) {
  statsWorker_->submit([this, containers = std::move(containers), detail, done = std::move(done)] {
    done(stats_->read(containers, detail));
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
      places.push_back({pod, "", {}});
      bool own = pod->config.security.namespaces.network != NamespaceMode::Node;
      if (own && pod->state == PodRecord::State::Ready) places.back().network = network_->namespacesOf(*pod).network;
    }
    for (const auto& container : now->containers) {
      if (container->state != ContainerRecord::State::Running) continue;
      if (auto found = byId.find(container->podId); found != byId.end())
        places[found->second].containers.push_back(container);
    }
    done(stats_->read(places, detail));
  });
}

void CoreImpl::filesystemUsage(
    std::function<void(Result<std::pair<storage::FilesystemUsage, storage::FilesystemUsage>>)> done) {
  statsWorker_->submit([this, done = std::move(done)] {
    auto images = storage_->imageUsage();
    if (!images) return done(std::move(images).error());
    auto written = stats_->layerTotal();
    storage::FilesystemUsage containers{storage_->containerRoot(), written.timestamp, written.bytes, written.inodes};
    done(std::pair(std::move(*images), std::move(containers)));
  });
}

}  // namespace userpod::core

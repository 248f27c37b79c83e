// Where the figures of containers, pods and disks are read, and by whom.
#include <algorithm>
#include <atomic>
#include <iterator>
#include <memory>
#include <thread>

#include "daemon/core/core_impl.hpp"

namespace userpod::core {
namespace {

constexpr std::size_t kThreads = 4;
// So many take a thread milliseconds.
constexpr std::size_t kWorthAThread = 64;

// Reads a list in parts, on all threads of `workers` where it is long; `done`, on one of them, has them in the order of
// the list.
template <typename Place, typename Figures>
void readParts(Workers& workers, stats::Stats& stats, std::vector<Place> places, stats::Detail detail,
               std::function<void(std::vector<Figures>)> done) {
  struct Reading {
    std::vector<Place> places;
    std::function<void(std::vector<Figures>)> done;
    std::vector<std::vector<Figures>> parts;
    std::atomic<std::size_t> left;
  };
  auto count = std::clamp(places.size() / kWorthAThread, std::size_t{1}, figureThreads());
  auto reading = std::make_shared<Reading>(std::move(places), std::move(done));
  reading->parts.resize(count);
  reading->left = count;
  for (std::size_t part = 0; part < count; ++part)
    workers.submit([&stats, reading, detail, part, count] {
      auto total = reading->places.size();
      auto at = [&](std::size_t border) {
        return std::make_move_iterator(reading->places.begin() + static_cast<std::ptrdiff_t>(total * border / count));
      };
      reading->parts[part] = stats.read(std::vector<Place>(at(part), at(part + 1)), detail);
      if (--reading->left > 0) return;
      auto& all = reading->parts.front();
      all.reserve(total);
      for (auto next = reading->parts.begin() + 1; next != reading->parts.end(); ++next)
        std::move(next->begin(), next->end(), std::back_inserter(all));
      reading->done(std::move(all));
    });
}

}  // namespace

std::size_t figureThreads() {
  return std::clamp(std::size_t{std::thread::hardware_concurrency()}, std::size_t{1}, kThreads);
}

void CoreImpl::containerFigures(std::vector<std::shared_ptr<const ContainerRecord>> containers, stats::Detail detail,
                                std::function<void(std::vector<stats::ContainerFigures>)> done) {
  readParts(*statsWorkers_, *stats_, std::move(containers), detail, std::move(done));
}

void CoreImpl::podFigures(std::vector<std::shared_ptr<const PodRecord>> pods, stats::Detail detail,
                          std::function<void(std::vector<stats::PodFigures>)> done) {
  statsWorkers_->submit([this, pods = std::move(pods), detail, done = std::move(done)] {
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
    readParts(*statsWorkers_, *stats_, std::move(places), detail, done);
  });
}

void CoreImpl::filesystemUsage(
    std::function<void(Result<std::pair<storage::FilesystemUsage, storage::FilesystemUsage>>)> done) {
  statsWorkers_->submit([this, done = std::move(done)] {
    auto images = storage_->imageUsage();
    if (!images) return done(std::move(images).error());
    auto written = stats_->layerTotal();
    storage::FilesystemUsage containers{storage_->containerRoot(), written.timestamp, written.bytes, written.inodes};
    done(std::pair(std::move(*images), std::move(containers)));
  });
}

}  // namespace userpod::core

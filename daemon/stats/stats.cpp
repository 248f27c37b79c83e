#include "daemon/stats/stats.hpp"

#include <sys/statvfs.h>

#include "daemon/stats/cgroup.hpp"
#include "daemon/stats/cpu_rate.hpp"
#include "daemon/stats/layers.hpp"
#include "daemon/stats/network.hpp"
#include "daemon/stats/processes.hpp"
#include "daemon/sys/util.hpp"

namespace userpod::stats {
namespace {

class Reader final : public Stats {
 public:
  Reader(const NodeInside& node, LayerPath path) : root_(node.cgroupRoot), path_(path), layers_(std::move(path)) {}

  std::vector<ContainerFigures> read(const Containers& containers, Detail detail) override;
  std::vector<PodFigures> read(const std::vector<PodPlace>& pods, Detail detail) override;
  void followLayer(const std::string& id, bool resting) override { layers_.follow(id, resting); }
  void forget(const std::string& id) override {
    layers_.forget(id);
    rates_.forget(id);
  }
  LayerFigures layerTotal() override { return layers_.total(); }

 private:
  std::vector<ContainerFigures> readContainers(CgroupReader& reader, const Containers& containers, Detail detail);
  std::optional<CgroupFigures> readCgroup(CgroupReader& reader, const std::string& cgroup, const std::string& id,
                                          std::int64_t begun, Detail detail);

  std::optional<FilesystemFigures> readFilesystem(const std::string& id) const;

  const std::string root_;
  const LayerPath path_;
  CpuRates rates_;
  Layers layers_;
};

std::optional<CgroupFigures> Reader::readCgroup(CgroupReader& reader, const std::string& cgroup, const std::string& id,
                                                std::int64_t begun, Detail detail) {
  auto figures = reader.read(root_ + cgroup, detail);
  if (figures && figures->cpu.usage)
    figures->cpu.rate = rates_.sample(id, *figures->cpu.usage, CpuRates::Clock::now(),
                                      std::chrono::nanoseconds(figures->timestamp - begun));
  return figures;
}

std::optional<FilesystemFigures> Reader::readFilesystem(const std::string& id) const {
  struct statvfs info{};
  if (::statvfs(path_(id).c_str(), &info) < 0) return std::nullopt;
  return FilesystemFigures{std::uint64_t{info.f_blocks} * info.f_frsize, info.f_files, info.f_ffree};
}

std::vector<ContainerFigures> Reader::readContainers(CgroupReader& reader, const Containers& containers,
                                                     Detail detail) {
  std::vector<ContainerFigures> list;
  list.reserve(containers.size());
  for (const auto& container : containers) {
    ContainerFigures figures{container, {}, layers_.of(container->id), {}};
    if (container->state != ContainerRecord::State::Exited)
      figures.cgroup = readCgroup(reader, container->cgroup, container->id, container->startedAt, detail);
    if (figures.cgroup && detail == Detail::All)
      figures.processes = readProcesses(root_ + container->cgroup, container->pid, figures.cgroup->tasks);
    if (detail == Detail::All) figures.filesystem = readFilesystem(container->id);
    list.push_back(std::move(figures));
  }
  return list;
}

std::vector<ContainerFigures> Reader::read(const Containers& containers, Detail detail) {
  CgroupReader reader;
  return readContainers(reader, containers, detail);
}

std::vector<PodFigures> Reader::read(const std::vector<PodPlace>& pods, Detail detail) {
  std::vector<std::string> namespaces;
  namespaces.reserve(pods.size());
  for (const auto& place : pods) namespaces.push_back(place.network);
  auto timestamp = nowNanos();
  auto interfaces = readInterfaces(namespaces);
  CgroupReader reader;
  std::vector<PodFigures> list;
  list.reserve(pods.size());
  for (std::size_t i = 0; i < pods.size(); ++i) {
    const PodRecord& pod = *pods[i].pod;
    PodFigures figures{pods[i].pod, {}, timestamp, std::move(interfaces[i]), {}};
    if (pod.state == PodRecord::State::Ready)
      figures.cgroup = readCgroup(reader, pod.cgroup, pod.id, pod.createdAt, detail);
    figures.containers = readContainers(reader, pods[i].containers, detail);
    list.push_back(std::move(figures));
  }
  return list;
}

}  // namespace

std::unique_ptr<Stats> Stats::open(const NodeInside& node, LayerPath path) {
  return std::make_unique<Reader>(node, std::move(path));
}

}  // namespace userpod::stats

// GetStats of the three interfaces that have it. Reads only: whoever is on the bus may ask.
#include <utility>

#include "dbus/front.hpp"
#include "dbus/options.hpp"
#include "dbus/stats_map.hpp"

namespace userpod::bus {
namespace {

using PodList = std::vector<std::shared_ptr<const PodRecord>>;
using ContainerList = std::vector<std::shared_ptr<const ContainerRecord>>;

struct Wanted {
  PodList pods;
  ContainerList containers;
};

// Objects that have gone are left out: who asks for many sees them go a little later.
Result<Wanted> wantedOf(const core::Snapshot& snapshot, const std::vector<sdbus::ObjectPath>& objects) {
  Wanted wanted;
  for (const auto& object : objects) {
    auto slash = object.rfind('/');
    std::string id = object.substr(slash + 1);
    if (object == podPath(id)) {
      if (auto pod = snapshot.pod(id)) wanted.pods.push_back(*pod);
    } else if (object == containerPath(id)) {
      if (auto container = snapshot.container(id)) wanted.containers.push_back(*container);
    } else {
      return Error(Code::InvalidArgument, cleanText(object) + " is no object of a pod or container");
    }
  }
  return wanted;
}

Result<stats::Detail> detailOf(const VariantMap& options) {
  USERPOD_TRY(all, flag(options, "all"));
  return all ? stats::Detail::All : stats::Detail::Usual;
}

}  // namespace

void Front::getStats(const StatsReply& reply, const std::vector<sdbus::ObjectPath>& objects,
                     const VariantMap& options) {
  auto detail = detailOf(options);
  if (!detail) return reply.fail(std::move(detail).error());
  auto wanted = wantedOf(*snapshot_, objects);
  if (!wanted) return reply.fail(std::move(wanted).error());
  bool everything = objects.empty();
  if (everything) wanted->pods = snapshot_->pods;
  auto rows = std::make_shared<std::map<sdbus::ObjectPath, VariantMap>>();
  auto others = [&core = core_, reply, rows, containers = std::move(wanted->containers), detail = *detail] {
    core.containerFigures(containers, detail, [reply, rows](const std::vector<stats::ContainerFigures>& figures) {
      for (const auto& one : figures)
        rows->insert_or_assign(sdbus::ObjectPath(containerPath(one.container->id)), statsMap(one));
      reply.send(*rows);
    });
  };
  core_.podFigures(std::move(wanted->pods), *detail,
                   [rows, everything, others](const std::vector<stats::PodFigures>& figures) {
                     for (const auto& pod : figures) {
                       rows->emplace(podPath(pod.pod->id), statsMap(pod));
                       if (!everything) continue;
                       for (const auto& container : pod.containers)
                         rows->emplace(containerPath(container.container->id), statsMap(container));
                     }
                     others();
                   });
}

void Front::getPodStats(const Reply<VariantMap>& reply, const std::string& id, const VariantMap& options) {
  auto detail = detailOf(options);
  if (!detail) return reply.fail(std::move(detail).error());
  auto pod = snapshot_->pod(id);
  if (!pod) return reply.fail(std::move(pod).error());
  core_.podFigures({*pod}, *detail, [reply](const std::vector<stats::PodFigures>& figures) {
    reply.send(figures.empty() ? VariantMap() : statsMap(figures.front()));
  });
}

void Front::getContainerStats(const Reply<VariantMap>& reply, const std::string& id, const VariantMap& options) {
  auto detail = detailOf(options);
  if (!detail) return reply.fail(std::move(detail).error());
  auto container = snapshot_->container(id);
  if (!container) return reply.fail(std::move(container).error());
  core_.containerFigures({*container}, *detail, [reply](const std::vector<stats::ContainerFigures>& figures) {
    reply.send(figures.empty() ? VariantMap() : statsMap(figures.front()));
  });
}

}  // namespace userpod::bus

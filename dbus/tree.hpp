// The objects on the bus, kept equal to the core's snapshots. Each change is announced in one order: the object itself
// (InterfacesAdded, PropertiesChanged or InterfacesRemoved), the properties of others that follow from it, then
// signals. Bus thread only.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "daemon/core/core.hpp"
#include "dbus/objects.hpp"

namespace userpod::bus {

struct Filter;

class Tree {
 public:
  // Registers everything; announces nothing, since nobody knows the connection yet. Throws sdbus::Error.
  Tree(sdbus::IConnection& connection, Front& front, core::Core& core, const core::Snapshot& snapshot);

  void apply(const core::Change& change);

  std::vector<ListRow> listPods(const Filter& filter) const;
  std::vector<ListRow> listContainers(const Filter& filter) const;
  std::vector<ListRow> listImages(const Filter& filter) const;

 private:
  struct Container {
    std::unique_ptr<ContainerObject> object;
    std::string podId, imageId;
    std::int32_t nodePid = 0;  // what the view's host pid was asked for, with its start
    std::uint64_t pidStart = 0;
  };
  struct Image {
    std::unique_ptr<ImageObject> object;
    std::shared_ptr<const ImageRecord> record;  // that it shows: the same one need not be looked at again
  };

  void syncPod(const core::Snapshot& snapshot, const std::string& id);
  void syncContainer(const core::Snapshot& snapshot, const std::string& id);
  void syncImages(const core::Snapshot& snapshot);
  void syncJob(const core::Snapshot& snapshot, const std::string& id);

  Container makeContainer(const ContainerRecord& record);
  void containerSignals(const ContainerView& before, const ContainerView& after);
  Image makeImage(std::shared_ptr<const ImageRecord> record, std::vector<sdbus::ObjectPath> usedBy);
  // The lists of others that name a container, after one came or went.
  void containerListsChanged(const std::string& podId, const std::string& imageId);
  std::vector<sdbus::ObjectPath> containersWith(sdbus::ObjectPath ContainerView::* member,
                                                const sdbus::ObjectPath& path) const;
  void event(std::uint64_t time, std::string_view type, const std::string& path, const VariantMap& details = {});
  std::uint32_t hostPid(const ContainerRecord& record) const;

  sdbus::IConnection& connection_;
  Front& front_;
  core::Core& core_;
  // Destroyed from below: the object manager last.
  ManagerObject manager_;
  std::map<std::string, std::unique_ptr<PodObject>> pods_;
  std::map<std::string, Container> containers_;
  std::map<std::string, Image> images_;  // in the order of the snapshots
  std::map<std::uint32_t, std::unique_ptr<JobObject>> jobs_;
};

}  // namespace userpod::bus

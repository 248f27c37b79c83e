// One connection's worth of bus: its objects, the calls not answered yet, and what each method does. Methods check
// options and rights, hand over to the core and return; the answer comes through the Reply. Bus thread only.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <string>

#include "daemon/core/core.hpp"
#include "dbus/replies.hpp"
#include "dbus/tree.hpp"

namespace userpod::bus {

class Front {
 public:
  using PathReply = Reply<sdbus::ObjectPath>;
  using ListReply = Reply<std::vector<ListRow>>;
  using StatsReply = Reply<std::map<sdbus::ObjectPath, VariantMap>>;
  using JobReply = Reply<std::uint32_t, sdbus::ObjectPath>;

  // Registers every object of the snapshot. Throws sdbus::Error when the connection does not take them.
  Front(core::Core& core, std::shared_ptr<Courier> courier, sdbus::IConnection& connection,
        std::shared_ptr<const core::Snapshot> snapshot);
  Front(const Front&) = delete;
  Front& operator=(const Front&) = delete;

  // A change of the core: announces it, then answers the calls that wait for it.
  void apply(const core::Change& change);

  // A call of a method of the object at `path`, to be answered.
  template <typename... Values>
  Reply<Values...> hold(const std::string& path, sdbus::Result<Values...>&& result) {
    return {courier_, held_, path, std::move(result)};
  }
  // Before an object is unregistered.
  void objectLeaves(const std::string& path) { held_.objectLeaves(path); }

  // Manager
  void getPod(const PathReply& reply, const std::string& key);
  void getContainer(const PathReply& reply, const std::string& key);
  void getImage(const PathReply& reply, const std::string& reference);
  void listPods(const ListReply& reply, const VariantMap& options);
  void listContainers(const ListReply& reply, const VariantMap& options);
  void listImages(const ListReply& reply, const VariantMap& options);
  void pullImage(const JobReply& reply, const std::string& reference, const std::string& sender,
                 const VariantMap& options);
  void pruneImages(const JobReply& reply, const std::string& sender, const VariantMap& options);
  void diagnose(const Reply<std::vector<CheckRow>>& reply);
  void reload(const Reply<VariantMap>& reply, const std::string& sender);
  void getNetwork(const Reply<VariantMap>& reply);
  void check(const JobReply& reply, const std::string& sender, const VariantMap& options);
  void getStats(const StatsReply& reply, const std::vector<sdbus::ObjectPath>& objects, const VariantMap& options);
  // Pod
  void stopPod(const JobReply& reply, const std::string& id, const std::string& sender, const VariantMap& options);
  void removePod(const JobReply& reply, const std::string& id, const std::string& sender, const VariantMap& options);
  void getPodStats(const Reply<VariantMap>& reply, const std::string& id, const VariantMap& options);
  // Container
  void getContainerStats(const Reply<VariantMap>& reply, const std::string& id, const VariantMap& options);
  void startContainer(const Reply<>& reply, const std::string& id, const std::string& sender,
                      const VariantMap& options);
  void pauseContainer(const Reply<>& reply, const std::string& id, bool pause, const std::string& sender,
                      const VariantMap& options);
  void killContainer(const Reply<>& reply, const std::string& id, std::int32_t signal, const std::string& whom,
                     const std::string& sender, const VariantMap& options);
  void stopContainer(const JobReply& reply, const std::string& id, const std::string& sender,
                     const VariantMap& options);
  void removeContainer(const JobReply& reply, const std::string& id, const std::string& sender,
                       const VariantMap& options);
  // Image
  void removeImage(const JobReply& reply, const std::string& id, const std::string& sender);
  void imageText(const Reply<std::string>& reply, const std::string& id, std::string ImageRecord::* text);
  // Job
  void cancelJob(const Reply<>& reply, std::uint32_t id, const std::string& sender);
  void waitJob(const Reply<VariantMap>& reply, std::uint32_t id);

 private:
  // Success when the caller may change things: SandboxedCaller for an application in a sandbox. Asks the bus who the
  // sender is, so that the answer comes later, on the bus thread.
  void authorise(const std::string& sender, std::function<void(Status)> then);
  Status judgeCaller(const std::string& sender, const AsyncError& error, const VariantMap& credentials);
  // After the check of the caller: the record if it is there and may be touched, else the reply is given.
  template <typename ReplyType>
  void withPod(const ReplyType& reply, const std::string& id, const std::string& sender, const VariantMap& options,
               std::function<void()> action);
  template <typename ReplyType>
  void withContainer(const ReplyType& reply, const std::string& id, const std::string& sender,
                     const VariantMap& options, std::function<void(const ContainerRecord&)> action);
  // Answers with the job once its object and JobNew are on the bus.
  void answerWithJob(const JobReply& reply, std::uint32_t id);

  core::Core& core_;
  std::shared_ptr<Courier> courier_;
  std::shared_ptr<const core::Snapshot> snapshot_;  // what the tree shows
  Tree tree_;
  std::unique_ptr<sdbus::IProxy> busDaemon_;
  std::map<std::uint32_t, JobReply> newJobs_;
  HeldCalls held_;  // last: its calls are answered while the connection lives
};

}  // namespace userpod::bus

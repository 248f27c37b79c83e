// The objects on the bus: generated adaptors over the views. Getters answer from the view that was announced last;
// methods go to Front. Everything on the bus thread.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "Container_adaptor.h"
#include "Image_adaptor.h"
#include "Job_adaptor.h"
#include "Manager_adaptor.h"
#include "Pod_adaptor.h"
#include "dbus/replies.hpp"
#include "dbus/views.hpp"

namespace userpod::bus {

class Front;

using ListRow = sdbus::Struct<sdbus::ObjectPath, VariantMap>;
using CheckRow = sdbus::Struct<std::string, std::string, std::string, std::vector<std::string>>;
using PathResult = sdbus::Result<sdbus::ObjectPath>;
using ListResult = sdbus::Result<std::vector<ListRow>>;
using StatsResult = sdbus::Result<std::map<sdbus::ObjectPath, VariantMap>>;
using JobResult = sdbus::Result<std::uint32_t, sdbus::ObjectPath>;

// Registered while it lives. Making one throws sdbus::Error when the bus refuses it.
template <typename Standard, typename Adaptor, typename View>
class Shown : public sdbus::AdaptorInterfaces<Standard, sdbus::Properties_adaptor, Adaptor> {
 public:
  Shown(const Shown&) = delete;
  Shown& operator=(const Shown&) = delete;

  const View& view() const { return view_; }
  void announce() {
    attempt("announce an object", [this] { this->getObject().emitInterfacesAddedSignal(); });
  }
  void withdraw() {
    attempt("withdraw an object", [this] { this->getObject().emitInterfacesRemovedSignal(); });
  }
  // Takes over the new values and announces those that differ.
  void change(View next) {
    auto names = changedProperties(view_, next);
    view_ = std::move(next);
    if (names.empty()) return;
    attempt("announce changed properties", [&] { emitChanged(this->getObject(), Adaptor::INTERFACE_NAME, names); });
  }

 protected:
  Shown(sdbus::IConnection& connection, const std::string& path, View view)
      : sdbus::AdaptorInterfaces<Standard, sdbus::Properties_adaptor, Adaptor>(connection, sdbus::ObjectPath(path)),
        view_(std::move(view)) {
    this->registerAdaptor();
  }
  ~Shown() {
    attempt("unregister an object", [this] { this->unregisterAdaptor(); });
  }
  std::string sender() { return senderOf(this->getObject()); }

  View view_;
};

class PodObject final : public Shown<sdbus::ManagedObject_adaptor, org::userpod1::Pod_adaptor, PodView> {
 public:
  PodObject(sdbus::IConnection& connection, Front& front, PodView view)
      : Shown(connection, podPath(view.id), view), front_(front) {}

 private:
  void Stop(JobResult&& result, VariantMap options) override;
  void Remove(JobResult&& result, VariantMap options) override;
  void GetStats(sdbus::Result<VariantMap>&& result, VariantMap options) override;
  std::string Id() override { return view_.id; }
  std::string Name() override { return view_.name; }
  std::string Namespace() override { return view_.nameSpace; }
  std::string Uid() override { return view_.uid; }
  std::uint32_t Attempt() override { return view_.attempt; }
  std::string Origin() override { return view_.origin; }
  StringMap Labels() override { return view_.labels; }
  StringMap Annotations() override { return view_.annotations; }
  std::string State() override { return view_.state; }
  std::uint64_t CreatedAt() override { return view_.createdAt; }
  std::string RuntimeHandler() override { return view_.runtimeHandler; }
  std::vector<Address> Addresses() override { return view_.addresses; }
  std::string NetworkMode() override { return view_.networkMode; }
  std::string CgroupPath() override { return view_.cgroupPath; }
  std::vector<sdbus::ObjectPath> Containers() override { return view_.containers; }

  Front& front_;
};

class ContainerObject final
    : public Shown<sdbus::ManagedObject_adaptor, org::userpod1::Container_adaptor, ContainerView> {
 public:
  ContainerObject(sdbus::IConnection& connection, Front& front, ContainerView view)
      : Shown(connection, containerPath(view.id), view), front_(front) {}

 private:
  void Start(sdbus::Result<>&& result, VariantMap options) override;
  void Pause(sdbus::Result<>&& result, VariantMap options) override;
  void Resume(sdbus::Result<>&& result, VariantMap options) override;
  void Kill(sdbus::Result<>&& result, std::int32_t signal, std::string whom, VariantMap options) override;
  void Stop(JobResult&& result, VariantMap options) override;
  void Remove(JobResult&& result, VariantMap options) override;
  void GetStats(sdbus::Result<VariantMap>&& result, VariantMap options) override;
  std::string Id() override { return view_.id; }
  std::string Name() override { return view_.name; }
  sdbus::ObjectPath Pod() override { return view_.pod; }
  sdbus::ObjectPath Image() override { return view_.image; }
  std::string ImageRef() override { return view_.imageRef; }
  std::string Origin() override { return view_.origin; }
  StringMap Labels() override { return view_.labels; }
  StringMap Annotations() override { return view_.annotations; }
  std::string State() override { return view_.state; }
  std::uint32_t Pid() override { return view_.pid; }
  std::int32_t ExitCode() override { return view_.exitCode; }
  std::uint32_t ExitSignal() override { return view_.exitSignal; }
  std::string Reason() override { return view_.reason; }
  std::string Message() override { return view_.message; }
  std::uint64_t CreatedAt() override { return view_.createdAt; }
  std::uint64_t StartedAt() override { return view_.startedAt; }
  std::uint64_t FinishedAt() override { return view_.finishedAt; }
  std::uint32_t Attempt() override { return view_.attempt; }
  std::vector<Bytes> Command() override { return view_.command; }
  Bytes WorkingDirectory() override { return view_.workingDirectory; }
  bool Tty() override { return view_.tty; }
  bool StdinOpen() override { return view_.stdinOpen; }
  std::string LogPath() override { return view_.logPath; }
  std::string CgroupPath() override { return view_.cgroupPath; }
  bool OomKilled() override { return view_.oomKilled; }

  Front& front_;
};

class ImageObject final : public Shown<sdbus::ManagedObject_adaptor, org::userpod1::Image_adaptor, ImageView> {
 public:
  ImageObject(sdbus::IConnection& connection, Front& front, ImageView view)
      : Shown(connection, imagePath(view.id), view), front_(front) {}

 private:
  void Remove(JobResult&& result, VariantMap options) override;
  void GetConfig(sdbus::Result<std::string>&& result, VariantMap options) override;
  void GetManifest(sdbus::Result<std::string>&& result, VariantMap options) override;
  std::string Id() override { return view_.id; }
  std::vector<std::string> RepoTags() override { return view_.repoTags; }
  std::vector<std::string> RepoDigests() override { return view_.repoDigests; }
  std::uint64_t Size() override { return view_.size; }
  std::uint64_t CreatedAt() override { return view_.createdAt; }
  std::string Architecture() override { return view_.architecture; }
  std::string Os() override { return view_.os; }
  std::string Variant() override { return view_.variant; }
  StringMap Labels() override { return view_.labels; }
  bool Pinned() override { return view_.pinned; }
  std::vector<sdbus::ObjectPath> UsedBy() override { return view_.usedBy; }

  Front& front_;
};

class JobObject final : public Shown<sdbus::ManagedObject_adaptor, org::userpod1::Job_adaptor, JobView> {
 public:
  JobObject(sdbus::IConnection& connection, Front& front, JobView view)
      : Shown(connection, jobPath(view.id), view), front_(front) {}

 private:
  void Cancel(sdbus::Result<>&& result, VariantMap options) override;
  void Wait(sdbus::Result<VariantMap>&& result, VariantMap options) override;
  std::uint32_t Id() override { return view_.id; }
  std::string Type() override { return view_.type; }
  std::vector<sdbus::ObjectPath> Objects() override { return view_.objects; }
  std::string Sender() override { return view_.sender; }
  std::string State() override { return view_.state; }
  bool Cancelable() override { return view_.cancelable; }
  std::uint64_t StartedAt() override { return view_.startedAt; }
  std::uint64_t FinishedAt() override { return view_.finishedAt; }
  std::string Stage() override { return view_.stage; }
  double Progress() override { return view_.progress; }
  std::uint64_t Done() override { return view_.done; }
  std::uint64_t Total() override { return view_.total; }
  std::string Unit() override { return view_.unit; }
  std::uint64_t Rate() override { return view_.rate; }
  std::vector<JobItem> Items() override { return view_.items; }
  std::string ErrorName() override { return view_.errorName; }
  std::string ErrorMessage() override { return view_.errorMessage; }
  VariantMap Result() override { return jobResult(view_.result); }

  Front& front_;
};

class ManagerObject final : public Shown<sdbus::ObjectManager_adaptor, org::userpod1::Manager_adaptor, ManagerView> {
 public:
  ManagerObject(sdbus::IConnection& connection, Front& front, core::Core& core, ManagerView view)
      : Shown(connection, kRootPath, std::move(view)), front_(front), core_(core) {}

 private:
  void GetPod(PathResult&& result, std::string key, VariantMap options) override;
  void GetContainer(PathResult&& result, std::string key, VariantMap options) override;
  void GetImage(PathResult&& result, std::string reference, VariantMap options) override;
  void ListPods(ListResult&& result, VariantMap options) override;
  void ListContainers(ListResult&& result, VariantMap options) override;
  void ListImages(ListResult&& result, VariantMap options) override;
  void PullImage(JobResult&& result, std::string reference, VariantMap options) override;
  void PruneImages(JobResult&& result, VariantMap options) override;
  void Check(JobResult&& result, VariantMap options) override;
  void GetStats(StatsResult&& result, std::vector<sdbus::ObjectPath> objects, VariantMap options) override;
  void Diagnose(sdbus::Result<std::vector<CheckRow>>&& result, VariantMap options) override;
  void Reload(sdbus::Result<VariantMap>&& result, VariantMap options) override;
  void GetNetwork(sdbus::Result<VariantMap>&& result, VariantMap options) override;
  std::string Version() override { return core_.info().version; }
  std::uint32_t ApiVersion() override { return 1; }
  std::vector<std::string> Features() override;
  std::string State() override { return view_.state; }
  std::vector<ConditionRow> Conditions() override { return view_.conditions; }
  std::string RuntimeName() override { return "userpod"; }
  sdbus::Struct<std::string, std::string> OciRuntime() override;
  std::string CriEndpoint() override { return "unix://" + core_.paths().criSocket(); }
  std::string StorageDriver() override { return core_.info().storageDriver; }
  std::string GraphRoot() override { return cleanText(core_.info().graphRoot); }
  std::string NetworkStack() override { return core_.info().networkStack; }
  std::string CgroupManager() override { return "cgroupfs"; }
  std::uint32_t PodCount() override { return view_.podCount; }
  std::uint32_t ContainerCount() override { return view_.containerCount; }
  std::uint32_t RunningCount() override { return view_.runningCount; }
  std::uint32_t ImageCount() override { return view_.imageCount; }

  Front& front_;
  core::Core& core_;
};

}  // namespace userpod::bus

#include "dbus/objects.hpp"

#include "dbus/front.hpp"

namespace userpod::bus {

void PodObject::Stop(JobResult&& result, VariantMap options) {
  front_.stopPod(front_.hold(getObjectPath(), std::move(result)), view_.id, sender(), options);
}

void PodObject::Remove(JobResult&& result, VariantMap options) {
  front_.removePod(front_.hold(getObjectPath(), std::move(result)), view_.id, sender(), options);
}

void PodObject::GetStats(sdbus::Result<VariantMap>&& result, VariantMap options) {
  front_.getPodStats(front_.hold(getObjectPath(), std::move(result)), view_.id, options);
}

void ContainerObject::GetStats(sdbus::Result<VariantMap>&& result, VariantMap options) {
  front_.getContainerStats(front_.hold(getObjectPath(), std::move(result)), view_.id, options);
}

void ContainerObject::Start(sdbus::Result<>&& result, VariantMap options) {
  front_.startContainer(front_.hold(getObjectPath(), std::move(result)), view_.id, sender(), options);
}

void ContainerObject::Pause(sdbus::Result<>&& result, VariantMap options) {
  front_.pauseContainer(front_.hold(getObjectPath(), std::move(result)), view_.id, true, sender(), options);
}

void ContainerObject::Resume(sdbus::Result<>&& result, VariantMap options) {
  front_.pauseContainer(front_.hold(getObjectPath(), std::move(result)), view_.id, false, sender(), options);
}

void ContainerObject::Kill(sdbus::Result<>&& result, std::int32_t signal, std::string whom, VariantMap options) {
  front_.killContainer(front_.hold(getObjectPath(), std::move(result)), view_.id, signal, whom, sender(), options);
}

void ContainerObject::Stop(JobResult&& result, VariantMap options) {
  front_.stopContainer(front_.hold(getObjectPath(), std::move(result)), view_.id, sender(), options);
}

void ContainerObject::Remove(JobResult&& result, VariantMap options) {
  front_.removeContainer(front_.hold(getObjectPath(), std::move(result)), view_.id, sender(), options);
}

void ImageObject::Remove(JobResult&& result, VariantMap) {
  front_.removeImage(front_.hold(getObjectPath(), std::move(result)), view_.id, sender());
}

void ImageObject::GetConfig(sdbus::Result<std::string>&& result, VariantMap) {
  front_.imageText(front_.hold(getObjectPath(), std::move(result)), view_.id, &ImageRecord::config);
}

void ImageObject::GetManifest(sdbus::Result<std::string>&& result, VariantMap) {
  front_.imageText(front_.hold(getObjectPath(), std::move(result)), view_.id, &ImageRecord::manifest);
}

void JobObject::Cancel(sdbus::Result<>&& result, VariantMap) {
  front_.cancelJob(front_.hold(getObjectPath(), std::move(result)), view_.id, sender());
}

void JobObject::Wait(sdbus::Result<VariantMap>&& result, VariantMap) {
  front_.waitJob(front_.hold(getObjectPath(), std::move(result)), view_.id);
}

void ManagerObject::GetPod(PathResult&& result, std::string key, VariantMap) {
  front_.getPod(front_.hold(getObjectPath(), std::move(result)), key);
}

void ManagerObject::GetContainer(PathResult&& result, std::string key, VariantMap) {
  front_.getContainer(front_.hold(getObjectPath(), std::move(result)), key);
}

void ManagerObject::GetImage(PathResult&& result, std::string reference, VariantMap) {
  front_.getImage(front_.hold(getObjectPath(), std::move(result)), reference);
}

void ManagerObject::ListPods(ListResult&& result, VariantMap options) {
  front_.listPods(front_.hold(getObjectPath(), std::move(result)), options);
}

void ManagerObject::ListContainers(ListResult&& result, VariantMap options) {
  front_.listContainers(front_.hold(getObjectPath(), std::move(result)), options);
}

void ManagerObject::ListImages(ListResult&& result, VariantMap options) {
  front_.listImages(front_.hold(getObjectPath(), std::move(result)), options);
}

void ManagerObject::PullImage(JobResult&& result, std::string reference, VariantMap options) {
  front_.pullImage(front_.hold(getObjectPath(), std::move(result)), reference, sender(), options);
}

void ManagerObject::PruneImages(JobResult&& result, VariantMap options) {
  front_.pruneImages(front_.hold(getObjectPath(), std::move(result)), sender(), options);
}

void ManagerObject::Check(JobResult&& result, VariantMap options) {
  front_.check(front_.hold(getObjectPath(), std::move(result)), sender(), options);
}

void ManagerObject::GetStats(StatsResult&& result, std::vector<sdbus::ObjectPath> objects, VariantMap options) {
  front_.getStats(front_.hold(getObjectPath(), std::move(result)), objects, options);
}

void ManagerObject::Diagnose(sdbus::Result<std::vector<CheckRow>>&& result, VariantMap) {
  front_.diagnose(front_.hold(getObjectPath(), std::move(result)));
}

void ManagerObject::Reload(sdbus::Result<VariantMap>&& result, VariantMap) {
  front_.reload(front_.hold(getObjectPath(), std::move(result)), sender());
}

void ManagerObject::GetNetwork(sdbus::Result<VariantMap>&& result, VariantMap) {
  front_.getNetwork(front_.hold(getObjectPath(), std::move(result)));
}

std::vector<std::string> ManagerObject::Features() {
  return {"Container.GetStats:all",
          "Container.Kill:force-managed",
          "Container.Pause:force-managed",
          "Container.Remove:force",
          "Container.Remove:force-managed",
          "Container.Resume:force-managed",
          "Container.Start:force-managed",
          "Container.Stop:force-managed",
          "Container.Stop:timeout-usec",
          "Manager.Check:deep",
          "Manager.Check:repair",
          "Manager.GetStats:all",
          "Manager.ListContainers:fields",
          "Manager.ListContainers:labels",
          "Manager.ListContainers:pod",
          "Manager.ListContainers:state",
          "Manager.ListImages:fields",
          "Manager.ListImages:labels",
          "Manager.ListPods:fields",
          "Manager.ListPods:labels",
          "Manager.ListPods:state",
          "Manager.PruneImages:all",
          "Manager.PruneImages:dry-run",
          "Manager.PullImage:identity-token",
          "Manager.PullImage:password",
          "Manager.PullImage:username",
          "Pod.GetStats:all",
          "Pod.Remove:force-managed",
          "Pod.Stop:force-managed"};
}

sdbus::Struct<std::string, std::string> ManagerObject::OciRuntime() {
  return {cleanText(core_.info().ociRuntimeName), cleanText(core_.info().ociRuntimeVersion)};
}

}  // namespace userpod::bus

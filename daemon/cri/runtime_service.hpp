// RuntimeService of the CRI: checks, translates, hands to the core. Holds no state of pods.
#pragma once

#include "api.grpc.pb.h"
#include "daemon/core/core.hpp"
#include "daemon/cri/calls.hpp"
#include "daemon/cri/events.hpp"
#include "daemon/streaming/streaming.hpp"

namespace userpod::cri {

namespace v1 = ::runtime::v1;

// Calls that answer UNIMPLEMENTED with a text that says why.
#define USERPOD_REFUSED_CALLS(X) X(CheckpointContainer) X(CheckpointPod) X(RestorePod)

class RuntimeService final : public v1::RuntimeService::CallbackService {
 public:
  // streaming: null where it could not be started.
  RuntimeService(core::Core& core, streaming::Server* streaming, EventHub& events, std::shared_ptr<CallRegistry> calls)
      : core_(core), streaming_(streaming), events_(events), calls_(std::move(calls)) {}

  using Context = grpc::CallbackServerContext;
  using Reactor = grpc::ServerUnaryReactor;

  Reactor* Version(Context*, const v1::VersionRequest*, v1::VersionResponse*) override;
  Reactor* Status(Context*, const v1::StatusRequest*, v1::StatusResponse*) override;
  Reactor* RuntimeConfig(Context*, const v1::RuntimeConfigRequest*, v1::RuntimeConfigResponse*) override;
  Reactor* UpdateRuntimeConfig(Context*, const v1::UpdateRuntimeConfigRequest*,
                               v1::UpdateRuntimeConfigResponse*) override;

  Reactor* RunPodSandbox(Context*, const v1::RunPodSandboxRequest*, v1::RunPodSandboxResponse*) override;
  Reactor* StopPodSandbox(Context*, const v1::StopPodSandboxRequest*, v1::StopPodSandboxResponse*) override;
  Reactor* RemovePodSandbox(Context*, const v1::RemovePodSandboxRequest*, v1::RemovePodSandboxResponse*) override;
  Reactor* PodSandboxStatus(Context*, const v1::PodSandboxStatusRequest*, v1::PodSandboxStatusResponse*) override;
  Reactor* UpdatePodSandboxResources(Context*, const v1::UpdatePodSandboxResourcesRequest*,
                                     v1::UpdatePodSandboxResourcesResponse*) override;
  Reactor* ListPodSandbox(Context*, const v1::ListPodSandboxRequest*, v1::ListPodSandboxResponse*) override;
  grpc::ServerWriteReactor<v1::StreamPodSandboxesResponse>* StreamPodSandboxes(
      Context*, const v1::StreamPodSandboxesRequest*) override;

  Reactor* CreateContainer(Context*, const v1::CreateContainerRequest*, v1::CreateContainerResponse*) override;
  Reactor* StartContainer(Context*, const v1::StartContainerRequest*, v1::StartContainerResponse*) override;
  Reactor* StopContainer(Context*, const v1::StopContainerRequest*, v1::StopContainerResponse*) override;
  Reactor* RemoveContainer(Context*, const v1::RemoveContainerRequest*, v1::RemoveContainerResponse*) override;
  Reactor* ContainerStatus(Context*, const v1::ContainerStatusRequest*, v1::ContainerStatusResponse*) override;
  Reactor* ListContainers(Context*, const v1::ListContainersRequest*, v1::ListContainersResponse*) override;
  grpc::ServerWriteReactor<v1::StreamContainersResponse>* StreamContainers(Context*,
                                                                           const v1::StreamContainersRequest*) override;
  Reactor* UpdateContainerResources(Context*, const v1::UpdateContainerResourcesRequest*,
                                    v1::UpdateContainerResourcesResponse*) override;
  Reactor* ReopenContainerLog(Context*, const v1::ReopenContainerLogRequest*, v1::ReopenContainerLogResponse*) override;
  Reactor* ExecSync(Context*, const v1::ExecSyncRequest*, v1::ExecSyncResponse*) override;
  Reactor* Exec(Context*, const v1::ExecRequest*, v1::ExecResponse*) override;
  Reactor* Attach(Context*, const v1::AttachRequest*, v1::AttachResponse*) override;
  Reactor* PortForward(Context*, const v1::PortForwardRequest*, v1::PortForwardResponse*) override;

  Reactor* ContainerStats(Context*, const v1::ContainerStatsRequest*, v1::ContainerStatsResponse*) override;
  Reactor* ListContainerStats(Context*, const v1::ListContainerStatsRequest*, v1::ListContainerStatsResponse*) override;
  Reactor* PodSandboxStats(Context*, const v1::PodSandboxStatsRequest*, v1::PodSandboxStatsResponse*) override;
  Reactor* ListPodSandboxStats(Context*, const v1::ListPodSandboxStatsRequest*,
                               v1::ListPodSandboxStatsResponse*) override;
  grpc::ServerWriteReactor<v1::StreamContainerStatsResponse>* StreamContainerStats(
      Context*, const v1::StreamContainerStatsRequest*) override;
  grpc::ServerWriteReactor<v1::StreamPodSandboxStatsResponse>* StreamPodSandboxStats(
      Context*, const v1::StreamPodSandboxStatsRequest*) override;
  EventHub::Reactor* GetContainerEvents(Context*, const v1::GetEventsRequest*) override;

  Reactor* ListMetricDescriptors(Context*, const v1::ListMetricDescriptorsRequest*,
                                 v1::ListMetricDescriptorsResponse*) override;
  Reactor* ListPodSandboxMetrics(Context*, const v1::ListPodSandboxMetricsRequest*,
                                 v1::ListPodSandboxMetricsResponse*) override;
  grpc::ServerWriteReactor<v1::StreamPodSandboxMetricsResponse>* StreamPodSandboxMetrics(
      Context*, const v1::StreamPodSandboxMetricsRequest*) override;

#define USERPOD_DECLARE(call) Reactor* call(Context*, const v1::call##Request*, v1::call##Response*) override;
  USERPOD_REFUSED_CALLS(USERPOD_DECLARE)
#undef USERPOD_DECLARE

 private:
  using PodPointer = std::shared_ptr<const PodRecord>;
  using ContainerPointer = std::shared_ptr<const ContainerRecord>;
  // By id or prefix. Objects of the bus do not exist here. `whole` leaves out those still being made.
  Result<PodPointer> findPod(const std::string& key, bool whole) const;
  static Result<PodPointer> findPod(const core::Snapshot& snapshot, const std::string& key, bool whole);
  Result<ContainerPointer> findContainer(const std::string& key, bool whole) const;
  pid_t hostPidOf(pid_t nodePid) const;
  // The whole id of a pod that is told to end, "" when it is unknown, which is success.
  Result<std::string> endingPod(const std::string& key) const;
  Result<std::string> endingContainer(const std::string& key) const;
  Result<ContainerConfig> checkCreate(const v1::CreateContainerRequest& request, std::string* podId) const;
  Result<PodConfig> checkRun(const v1::RunPodSandboxRequest& request) const;

  // URLs for clients that stream.
  Result<std::string> execUrl(const v1::ExecRequest& request) const;
  Result<std::string> attachUrl(const v1::AttachRequest& request) const;
  Result<std::string> portForwardUrl(const v1::PortForwardRequest& request) const;
  Result<ContainerPointer> findLiving(const std::string& key) const;

  core::Core& core_;
  streaming::Server* streaming_;
  EventHub& events_;
  std::shared_ptr<CallRegistry> calls_;
};

// The parts of Status that only the core's answers decide.
void fillConditions(const core::Core& core, v1::RuntimeStatus* status);
void fillHandlers(const core::Core& core, v1::StatusResponse* response);
std::string configInfo(const core::Core& core);
std::string diagnosisInfo(const std::vector<Check>& checks);
std::string eventsInfo(const EventHub& events);

}  // namespace userpod::cri

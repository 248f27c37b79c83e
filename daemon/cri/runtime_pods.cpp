// RuntimeService: the calls about pods.
#include "daemon/cri/containers.hpp"
#include "daemon/cri/fields.hpp"
#include "daemon/cri/lists.hpp"
#include "daemon/cri/pods.hpp"
#include "daemon/cri/resources.hpp"
#include "daemon/cri/runtime_service.hpp"
#include "daemon/sys/util.hpp"

namespace userpod::cri {
namespace {

struct PodLimits {
  std::optional<Resources> overhead;
  std::optional<Resources> resources;
};

Result<PodLimits> toPodLimits(const v1::UpdatePodSandboxResourcesRequest& request) {
  PodLimits limits;
  if (request.has_overhead()) {
    USERPOD_TRY(overhead, toResources("overhead", request.overhead()));
    limits.overhead = std::move(overhead);
  }
  if (request.has_resources()) {
    USERPOD_TRY(resources, toResources("resources", request.resources()));
    limits.resources = std::move(resources);
  }
  return limits;
}

// Of the same moment as the pod's: a kubelet that works by events asks no more. Where there is no room for them it is
// told so by the absence of the time, and asks for each.
void fillContainers(const core::Snapshot& snapshot, const std::string& podId, v1::PodSandboxStatusResponse* response) {
  constexpr std::size_t kRoom = kMaxMessage / 2;  // for the rest, and what verbose adds
  for (const auto& container : snapshot.containers)
    if (container->podId == podId && visible(*container)) fillStatus(*container, response->add_containers_statuses());
  if (response->ByteSizeLong() <= kRoom)
    response->set_timestamp(nowNanos());
  else
    response->clear_containers_statuses();
}

}  // namespace

Result<RuntimeService::PodPointer> RuntimeService::findPod(const std::string& key, bool whole) const {
  return findPod(*core_.snapshot(), key, whole);
}

Result<RuntimeService::PodPointer> RuntimeService::findPod(const core::Snapshot& snapshot, const std::string& key,
                                                           bool whole) {
  USERPOD_CHECK(checkId("pod_sandbox_id", key));
  USERPOD_TRY(pod, snapshot.pod(key));
  if (pod->origin != Origin::Cri || (whole && !visible(*pod))) return Error(Code::NoSuchPod, "no pod with id " + key);
  return std::move(pod);
}

Result<std::string> RuntimeService::endingPod(const std::string& key) const {
  auto pod = findPod(key, false);
  if (pod) return (*pod)->id;
  if (pod.error().code() == Code::NoSuchPod) return std::string();
  return std::move(pod).error();
}

Result<PodConfig> RuntimeService::checkRun(const v1::RunPodSandboxRequest& request) const {
  if (!request.has_config()) return invalidField("config", "is missing");
  const std::string& handler = request.runtime_handler();
  USERPOD_CHECK(checkText("runtime_handler", handler, 253));
  if (!core_.hasHandler(handler))
    return invalidField("runtime_handler", "is \"" + handler +
                                               "\", which is not configured; name it in userpod.toml under "
                                               "[runtimes], or leave it empty");
  return toPodConfig(request.config(), core_.paths().podLogs());
}

grpc::ServerUnaryReactor* RuntimeService::RunPodSandbox(Context* context, const v1::RunPodSandboxRequest* request,
                                                        v1::RunPodSandboxResponse* response) {
  const auto& metadata = request->config().metadata();
  CallName name{"RunPodSandbox", "POD_NAME", metadata.namespace_() + "/" + metadata.name()};
  auto config = checkRun(*request);
  if (!config) return answer(context, name, std::move(config).error());
  return calls_->run(std::move(name), [&](std::shared_ptr<Reply> reply, std::stop_token) {
    core_.runPod(std::move(*config), request->runtime_handler(), Origin::Cri,
                 [reply, response](Result<std::string> id) {
                   if (!id) return reply->fail(id.error());
                   reply->ok([&] { response->set_pod_sandbox_id(*id); });
                 });
  });
}

grpc::ServerUnaryReactor* RuntimeService::StopPodSandbox(Context* context, const v1::StopPodSandboxRequest* request,
                                                         v1::StopPodSandboxResponse*) {
  CallName name{"StopPodSandbox", "POD_ID", request->pod_sandbox_id()};
  auto id = endingPod(request->pod_sandbox_id());
  if (!id) return answer(context, name, std::move(id).error());
  if (id->empty()) return answer(context, name, {});
  return calls_->run(std::move(name), [&](std::shared_ptr<Reply> reply, std::stop_token) {
    core_.stopPod(*id, [reply](const userpod::Status& status) { reply->finish(status); });
  });
}

grpc::ServerUnaryReactor* RuntimeService::RemovePodSandbox(Context* context, const v1::RemovePodSandboxRequest* request,
                                                           v1::RemovePodSandboxResponse*) {
  CallName name{"RemovePodSandbox", "POD_ID", request->pod_sandbox_id()};
  auto id = endingPod(request->pod_sandbox_id());
  if (!id) return answer(context, name, std::move(id).error());
  if (id->empty()) return answer(context, name, {});
  return calls_->run(std::move(name), [&](std::shared_ptr<Reply> reply, std::stop_token) {
    core_.removePod(*id, [reply](const userpod::Status& status) { reply->finish(status); });
  });
}

grpc::ServerUnaryReactor* RuntimeService::PodSandboxStatus(Context* context, const v1::PodSandboxStatusRequest* request,
                                                           v1::PodSandboxStatusResponse* response) {
  CallName name{"PodSandboxStatus", "POD_ID", request->pod_sandbox_id()};
  auto snapshot = core_.snapshot();
  auto pod = findPod(*snapshot, request->pod_sandbox_id(), true);
  if (!pod) return answer(context, name, std::move(pod).error());
  fillStatus(**pod, response->mutable_status());
  fillContainers(*snapshot, (*pod)->id, response);
  if (request->verbose())
    (*response->mutable_info())["info"] = podInfo(**pod, hostPidOf((*pod)->pausePid), core_.podNamespaces(**pod));
  return answer(context, name, {});
}

grpc::ServerUnaryReactor* RuntimeService::UpdatePodSandboxResources(Context* context,
                                                                    const v1::UpdatePodSandboxResourcesRequest* request,
                                                                    v1::UpdatePodSandboxResourcesResponse*) {
  CallName name{"UpdatePodSandboxResources", "POD_ID", request->pod_sandbox_id()};
  auto pod = findPod(request->pod_sandbox_id(), true);
  if (!pod) return answer(context, name, std::move(pod).error());
  auto limits = toPodLimits(*request);
  if (!limits) return answer(context, name, std::move(limits).error());
  return calls_->run(std::move(name), [&](std::shared_ptr<Reply> reply, std::stop_token) {
    core_.updatePod((*pod)->id, std::move(limits->overhead), std::move(limits->resources),
                    [reply](const userpod::Status& status) { reply->finish(status); });
  });
}

grpc::ServerUnaryReactor* RuntimeService::ListPodSandbox(Context* context, const v1::ListPodSandboxRequest* request,
                                                         v1::ListPodSandboxResponse* response) {
  auto snapshot = core_.snapshot();
  for (const auto& pod : snapshot->pods)
    if (matches(request->filter(), *pod)) fillItem(*pod, response->add_items());
  return answer(context, {"ListPodSandbox"}, *response, "StreamPodSandboxes");
}

grpc::ServerWriteReactor<v1::StreamPodSandboxesResponse>* RuntimeService::StreamPodSandboxes(
    Context*, const v1::StreamPodSandboxesRequest* request) {
  auto* stream = new ListStream<PodPointer, v1::StreamPodSandboxesResponse>(
      select(core_.snapshot()->pods, [&](const PodRecord& pod) { return matches(request->filter(), pod); }),
      [](const PodPointer& pod, v1::StreamPodSandboxesResponse* response) {
        v1::PodSandbox* item = response->add_pod_sandboxes();
        fillItem(*pod, item);
        return item->ByteSizeLong();
      });
  return stream->start();
}

}  // namespace userpod::cri

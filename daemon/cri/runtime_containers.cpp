// RuntimeService: the calls about containers.
#include <algorithm>

#include "daemon/cri/containers.hpp"
#include "daemon/cri/fields.hpp"
#include "daemon/cri/limits.hpp"
#include "daemon/cri/lists.hpp"
#include "daemon/cri/resources.hpp"
#include "daemon/cri/runtime_service.hpp"
#include "daemon/sys/log.hpp"

namespace userpod::cri {
namespace {

// Longer than any client waits; keeps the conversion to milliseconds from overflowing.
constexpr std::int64_t kLongestSeconds = 10LL * 365 * 24 * 3600;

Result<std::chrono::milliseconds> toTimeout(std::int64_t seconds) {
  if (seconds < 0) return invalidField("timeout", "is negative; give seconds, or 0");
  return std::chrono::seconds(std::min(seconds, kLongestSeconds));
}

// Two streams of 16 MiB do not fit into the one message a client takes. What is cut was beyond any use of it: the
// stream that is short stays whole.
void fillOutput(oci::ExecResult result, v1::ExecSyncResponse* response) {
  constexpr std::size_t kRoom = kMaxMessage - 1024;
  if (result.out.size() + result.err.size() > kRoom) {
    result.err.resize(std::min(result.err.size(), std::max(kRoom / 2, kRoom - std::min(kRoom, result.out.size()))));
    result.out.resize(std::min(result.out.size(), kRoom - result.err.size()));
  }
  response->set_stdout(std::move(result.out));
  response->set_stderr(std::move(result.err));
  response->set_exit_code(result.exitCode);
}

}  // namespace

Result<RuntimeService::ContainerPointer> RuntimeService::findContainer(const std::string& key, bool whole) const {
  USERPOD_CHECK(checkId("container_id", key));
  USERPOD_TRY(container, core_.snapshot()->container(key));
  if (container->origin != Origin::Cri || (whole && !visible(*container)))
    return Error(Code::NoSuchContainer, "no container with id " + key);
  return std::move(container);
}

// An empty node pid, or a process that has just gone, has no number on the host.
pid_t RuntimeService::hostPidOf(pid_t nodePid) const {
  auto hostPid = nodePid > 0 ? core_.hostPid(nodePid) : Result<pid_t>(0);
  if (!hostPid) logDebug("host pid of process {} of the node: {}", nodePid, hostPid.error());
  return hostPid ? *hostPid : 0;
}

Result<std::string> RuntimeService::endingContainer(const std::string& key) const {
  auto container = findContainer(key, false);
  if (container) return (*container)->id;
  if (container.error().code() == Code::NoSuchContainer) return std::string();
  return std::move(container).error();
}

Result<ContainerConfig> RuntimeService::checkCreate(const v1::CreateContainerRequest& request,
                                                    std::string* podId) const {
  USERPOD_TRY(pod, findPod(request.pod_sandbox_id(), true));
  if (!request.has_config()) return invalidField("config", "is missing");
  if (!request.sandbox_config().has_metadata())
    return invalidField("sandbox_config.metadata", "is missing; repeat the pod's configuration");
  USERPOD_TRY(config, toContainerConfig(request.config()));
  if (config.security.privileged && !pod->config.security.privileged)
    return invalidField("config.linux.security_context.privileged",
                        "is set in a pod that is not privileged; make the pod with "
                        "config.linux.security_context.privileged too");
  *podId = pod->id;
  return std::move(config);
}

grpc::ServerUnaryReactor* RuntimeService::CreateContainer(Context* context, const v1::CreateContainerRequest* request,
                                                          v1::CreateContainerResponse* response) {
  CallName name{"CreateContainer", "POD_ID", request->pod_sandbox_id()};
  std::string podId;
  auto config = checkCreate(*request, &podId);
  if (!config) return answer(context, name, std::move(config).error());
  return calls_->run(std::move(name), [&](std::shared_ptr<Reply> reply, std::stop_token) {
    core_.createContainer(podId, std::move(*config), Origin::Cri, [reply, response](Result<std::string> id) {
      if (!id) return reply->fail(id.error());
      reply->ok([&] { response->set_container_id(*id); });
    });
  });
}

grpc::ServerUnaryReactor* RuntimeService::StartContainer(Context* context, const v1::StartContainerRequest* request,
                                                         v1::StartContainerResponse*) {
  CallName name{"StartContainer", "CONTAINER_ID", request->container_id()};
  auto container = findContainer(request->container_id(), true);
  if (!container) return answer(context, name, std::move(container).error());
  return calls_->run(std::move(name), [&](std::shared_ptr<Reply> reply, std::stop_token) {
    core_.startContainer((*container)->id, [reply](const userpod::Status& status) { reply->finish(status); });
  });
}

grpc::ServerUnaryReactor* RuntimeService::StopContainer(Context* context, const v1::StopContainerRequest* request,
                                                        v1::StopContainerResponse*) {
  CallName name{"StopContainer", "CONTAINER_ID", request->container_id()};
  auto grace = toTimeout(request->timeout());
  if (!grace) return answer(context, name, std::move(grace).error());
  auto id = endingContainer(request->container_id());
  if (!id) return answer(context, name, std::move(id).error());
  if (id->empty()) return answer(context, name, {});
  return calls_->run(std::move(name), [&](std::shared_ptr<Reply> reply, std::stop_token) {
    core_.stopContainer(*id, *grace, [reply](const userpod::Status& status) { reply->finish(status); });
  });
}

grpc::ServerUnaryReactor* RuntimeService::RemoveContainer(Context* context, const v1::RemoveContainerRequest* request,
                                                          v1::RemoveContainerResponse*) {
  CallName name{"RemoveContainer", "CONTAINER_ID", request->container_id()};
  auto id = endingContainer(request->container_id());
  if (!id) return answer(context, name, std::move(id).error());
  if (id->empty()) return answer(context, name, {});
  return calls_->run(std::move(name), [&](std::shared_ptr<Reply> reply, std::stop_token) {
    core_.removeContainer(*id, [reply](const userpod::Status& status) { reply->finish(status); });
  });
}

grpc::ServerUnaryReactor* RuntimeService::ContainerStatus(Context* context, const v1::ContainerStatusRequest* request,
                                                          v1::ContainerStatusResponse* response) {
  CallName name{"ContainerStatus", "CONTAINER_ID", request->container_id()};
  auto found = findContainer(request->container_id(), true);
  if (!found) return answer(context, name, std::move(found).error());
  const ContainerRecord& container = **found;
  fillStatus(container, response->mutable_status());
  if (request->verbose()) {
    (*response->mutable_info())["info"] =
        containerInfo(container, hostPidOf(container.pid), core_.containerSpec(container.id));
  }
  return answer(context, name, {});
}

grpc::ServerUnaryReactor* RuntimeService::ListContainers(Context* context, const v1::ListContainersRequest* request,
                                                         v1::ListContainersResponse* response) {
  auto snapshot = core_.snapshot();
  for (const auto& container : snapshot->containers)
    if (matches(request->filter(), *container)) fillItem(*container, response->add_containers());
  return answer(context, {"ListContainers"}, *response, "StreamContainers");
}

grpc::ServerWriteReactor<v1::StreamContainersResponse>* RuntimeService::StreamContainers(
    Context*, const v1::StreamContainersRequest* request) {
  auto* stream = new ListStream<ContainerPointer, v1::StreamContainersResponse>(
      select(core_.snapshot()->containers,
             [&](const ContainerRecord& container) { return matches(request->filter(), container); }),
      [](const ContainerPointer& container, v1::StreamContainersResponse* response) {
        v1::Container* item = response->add_containers();
        fillItem(*container, item);
        return item->ByteSizeLong();
      });
  return stream->start();
}

grpc::ServerUnaryReactor* RuntimeService::UpdateContainerResources(Context* context,
                                                                   const v1::UpdateContainerResourcesRequest* request,
                                                                   v1::UpdateContainerResourcesResponse*) {
  CallName name{"UpdateContainerResources", "CONTAINER_ID", request->container_id()};
  if (request->has_windows())
    return answer(context, name, unsupportedField("windows", "is not for Linux; leave it out"));
  auto container = findContainer(request->container_id(), true);
  if (!container) return answer(context, name, std::move(container).error());
  auto resources = toResources("linux", request->linux());
  if (!resources) return answer(context, name, std::move(resources).error());
  return calls_->run(std::move(name), [&](std::shared_ptr<Reply> reply, std::stop_token) {
    core_.updateContainer((*container)->id, std::move(*resources),
                          [reply](const userpod::Status& status) { reply->finish(status); });
  });
}

grpc::ServerUnaryReactor* RuntimeService::ReopenContainerLog(Context* context,
                                                             const v1::ReopenContainerLogRequest* request,
                                                             v1::ReopenContainerLogResponse*) {
  CallName name{"ReopenContainerLog", "CONTAINER_ID", request->container_id()};
  auto container = findContainer(request->container_id(), true);
  if (!container) return answer(context, name, std::move(container).error());
  return calls_->run(std::move(name), [&](std::shared_ptr<Reply> reply, std::stop_token) {
    core_.reopenContainerLog((*container)->id, [reply](const userpod::Status& status) { reply->finish(status); });
  });
}

grpc::ServerUnaryReactor* RuntimeService::ExecSync(Context* context, const v1::ExecSyncRequest* request,
                                                   v1::ExecSyncResponse* response) {
  CallName name{"ExecSync", "CONTAINER_ID", request->container_id()};
  if (request->cmd().empty() || request->cmd(0).empty())
    return answer(context, name, invalidField("cmd", "is empty; give a program and its arguments"));
  for (const auto& word : request->cmd())
    if (auto good = checkText("cmd", word); !good) return answer(context, name, std::move(good).error());
  auto timeout = toTimeout(request->timeout());
  if (!timeout) return answer(context, name, std::move(timeout).error());
  auto container = findContainer(request->container_id(), true);
  if (!container) return answer(context, name, std::move(container).error());
  return calls_->run(std::move(name), [&](std::shared_ptr<Reply> reply, std::stop_token) {
    core_.execSync((*container)->id, toVector(request->cmd()), *timeout,
                   [reply, response](Result<oci::ExecResult> result) {
                     if (!result) return reply->fail(result.error());
                     reply->ok([&] { fillOutput(std::move(*result), response); });
                   });
  });
}

}  // namespace userpod::cri

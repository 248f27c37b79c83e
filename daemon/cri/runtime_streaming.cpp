// RuntimeService: the calls that answer with a URL, where the streaming server takes over.
#include <fmt/core.h>

#include "daemon/cri/fields.hpp"
#include "daemon/cri/runtime_service.hpp"

namespace userpod::cri {
namespace {

constexpr int kMaxPorts = 128;  // two WebSocket channels each, whose numbers are a byte

template <typename Request>
Status checkStreams(const Request& request) {
  if (request.tty() && request.stderr())
    return invalidField("stderr", "cannot be had with tty: a terminal has one output; leave stderr out");
  if (!request.stdin() && !request.stdout() && !request.stderr())
    return invalidField("stdin, stdout and stderr", "are all false; ask for one of them at least");
  return {};
}

Error noStreaming() {
  return {Code::NotReady,
          "the streaming server could not listen when userpodd started; its condition Streaming says why"};
}

template <typename Response>
grpc::ServerUnaryReactor* answerUrl(grpc::CallbackServerContext* context, const CallName& name, Result<std::string> url,
                                    Response* response) {
  if (!url) return answer(context, name, std::move(url).error());
  response->set_url(std::move(*url));
  return answer(context, name, {});
}

}  // namespace

Result<RuntimeService::ContainerPointer> RuntimeService::findLiving(const std::string& key) const {
  if (streaming_ == nullptr) return noStreaming();
  USERPOD_TRY(container, findContainer(key, true));
  if (container->state == ContainerRecord::State::Running || container->state == ContainerRecord::State::Created)
    return std::move(container);
  return Error(Code::InvalidState, "container " + container->id + " has ended");
}

Result<std::string> RuntimeService::execUrl(const v1::ExecRequest& request) const {
  if (request.cmd().empty() || request.cmd(0).empty())
    return invalidField("cmd", "is empty; give a program and its arguments");
  for (const auto& word : request.cmd()) USERPOD_CHECK(checkText("cmd", word));
  USERPOD_CHECK(checkStreams(request));
  USERPOD_TRY(container, findLiving(request.container_id()));
  if (container->state != ContainerRecord::State::Running)
    return Error(Code::InvalidState, "container " + container->id + " is not running; start it first");
  return streaming_->exec(
      container->id, {toVector(request.cmd()), request.tty(), request.stdin(), request.stdout(), request.stderr(), {}});
}

Result<std::string> RuntimeService::attachUrl(const v1::AttachRequest& request) const {
  USERPOD_CHECK(checkStreams(request));
  USERPOD_TRY(container, findLiving(request.container_id()));
  if (container->config.tty != request.tty())
    return invalidField("tty", container->config.tty ? "is false, but the container has a terminal; say true"
                                                     : "is true, but the container has no terminal; say false");
  return streaming_->attach(container->id, {request.tty(), request.stdin(), request.stdout(), request.stderr()});
}

Result<std::string> RuntimeService::portForwardUrl(const v1::PortForwardRequest& request) const {
  if (request.port_size() > kMaxPorts) return invalidField("port", fmt::format("has more than {} entries", kMaxPorts));
  std::vector<std::uint16_t> ports;
  for (auto port : request.port()) {
    if (port < 1 || port > UINT16_MAX)
      return invalidField("port", fmt::format("is {}; ports are 1 to {}", port, UINT16_MAX));
    ports.push_back(static_cast<std::uint16_t>(port));
  }
  if (streaming_ == nullptr) return noStreaming();
  USERPOD_TRY(pod, findPod(request.pod_sandbox_id(), true));
  if (pod->state != PodRecord::State::Ready) return Error(Code::InvalidState, "pod " + pod->id + " is not ready");
  return streaming_->portForward(pod->id, std::move(ports));
}

grpc::ServerUnaryReactor* RuntimeService::Exec(Context* context, const v1::ExecRequest* request,
                                               v1::ExecResponse* response) {
  return answerUrl(context, {"Exec", "CONTAINER_ID", request->container_id()}, execUrl(*request), response);
}

grpc::ServerUnaryReactor* RuntimeService::Attach(Context* context, const v1::AttachRequest* request,
                                                 v1::AttachResponse* response) {
  return answerUrl(context, {"Attach", "CONTAINER_ID", request->container_id()}, attachUrl(*request), response);
}

grpc::ServerUnaryReactor* RuntimeService::PortForward(Context* context, const v1::PortForwardRequest* request,
                                                      v1::PortForwardResponse* response) {
  return answerUrl(context, {"PortForward", "POD_ID", request->pod_sandbox_id()}, portForwardUrl(*request), response);
}

}  // namespace userpod::cri

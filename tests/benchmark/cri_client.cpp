#include "tests/benchmark/cri_client.hpp"

#include <fmt/core.h>
#include <grpcpp/grpcpp.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <nlohmann/json.hpp>
#include <thread>
#include <vector>

#include "api.grpc.pb.h"
#include "daemon/sys/fd.hpp"

namespace userpod::bench {
namespace {

namespace v1 = runtime::v1;

constexpr const char* kLabel = "org.userpod1.benchmark";
constexpr std::chrono::minutes kCallTime{5};
constexpr std::chrono::seconds kReadyTime{30};
constexpr std::size_t kRemovers = 8;  // callers at once of removeAll()

// As the kubelet asks by default: the network, IPC and UTS namespaces of the pod, a PID namespace for each container.
void setNamespaces(v1::NamespaceOption* options, bool sharedPid = false) {
  options->set_network(v1::POD);
  options->set_ipc(v1::POD);
  options->set_pid(sharedPid ? v1::POD : v1::CONTAINER);
}

v1::PodSandboxConfig podConfig(const std::string& name, bool sharedPid = false) {
  v1::PodSandboxConfig config;
  config.mutable_metadata()->set_name(name);
  config.mutable_metadata()->set_uid("userpod-bench-" + name);
  config.mutable_metadata()->set_namespace_("userpod-bench");
  config.set_hostname(name);
  config.set_log_directory(kLogDirectory);
  (*config.mutable_labels())[kLabel] = "1";
  setNamespaces(config.mutable_linux()->mutable_security_context()->mutable_namespace_options(), sharedPid);
  return config;
}

class CriClient final : public Client {
 public:
  explicit CriClient(const std::shared_ptr<grpc::Channel>& channel)
      : runtime_(v1::RuntimeService::NewStub(channel)), images_(v1::ImageService::NewStub(channel)) {}

  Status waitReady();
  Result<std::string> podAddress(const Pod& pod) override;
  Result<Pod> runPod(const std::string& name, bool sharedPid, std::uint16_t hostPort) override;
  Status stopPod(const Pod& pod) override;
  Status removePod(const Pod& pod) override;
  Result<std::string> createContainer(const Pod& pod, const std::string& name, const std::string& image,
                                      bool stubborn) override;
  Status startContainer(const std::string& id) override;
  Status stopContainer(const std::string& id, std::int64_t grace) override;
  Status removeContainer(const std::string& id) override;
  Status exec(const std::string& id, const std::vector<std::string>& command) override;
  Result<std::string> execUrl(const std::string& id, const std::vector<std::string>& command, bool in) override;
  Result<std::string> portForwardUrl(const Pod& pod) override;
  Result<nlohmann::json> containerSpec(const std::string& id) override;
  Result<pid_t> containerPid(const std::string& id) override;
  Result<std::size_t> listPods() override;
  Result<std::size_t> listContainers() override;
  Result<std::size_t> listContainerStats() override;
  Result<std::size_t> listPodStats() override;
  Result<std::size_t> listPodMetrics() override;
  Status removeAll() override;
  Status pull(const std::string& image) override;
  Result<std::vector<std::string>> listImages() override;
  Result<bool> hasImage(const std::string& image) override;
  Status removeImage(const std::string& image) override;

 private:
  template <typename Stub, typename Request, typename Response>
  static Status call(const char* name, Stub& stub,
                     grpc::Status (Stub::*method)(grpc::ClientContext*, const Request&, Response*),
                     const Request& request, Response* response) {
    grpc::ClientContext context;
    context.set_deadline(std::chrono::system_clock::now() + kCallTime);
    auto status = (stub.*method)(&context, request, response);
    if (status.ok()) return {};
    return Error(Code::System,
                 fmt::format("{}: status {}: {}", name, static_cast<int>(status.error_code()), status.error_message()));
  }
  template <typename Request, typename Response>
  Status runtimeCall(const char* name,
                     grpc::Status (v1::RuntimeService::Stub::*method)(grpc::ClientContext*, const Request&, Response*),
                     const Request& request, Response* response) {
    return call(name, *runtime_, method, request, response);
  }
  template <typename Request, typename Response>
  Status imageCall(const char* name,
                   grpc::Status (v1::ImageService::Stub::*method)(grpc::ClientContext*, const Request&, Response*),
                   const Request& request, Response* response) {
    return call(name, *images_, method, request, response);
  }

  Result<nlohmann::json> containerInfo(const std::string& id);

  std::unique_ptr<v1::RuntimeService::Stub> runtime_;
  std::unique_ptr<v1::ImageService::Stub> images_;
};

Status CriClient::waitReady() {
  auto end = std::chrono::steady_clock::now() + kReadyTime;
  while (true) {
    v1::StatusResponse response;
    auto answered = runtimeCall("Status", &v1::RuntimeService::Stub::Status, v1::StatusRequest(), &response);
    std::string missing;
    for (const auto& condition : response.status().conditions())
      if ((condition.type() == "RuntimeReady" || condition.type() == "NetworkReady") && !condition.status())
        missing += " " + condition.type() + " (" + condition.message() + ")";
    if (answered && missing.empty()) return {};
    if (std::chrono::steady_clock::now() > end) {
      if (!answered) return answered;
      return Error(Code::NotReady, "the daemon is not ready:" + missing);
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(50));
  }
}

Result<Pod> CriClient::runPod(const std::string& name, bool sharedPid, std::uint16_t hostPort) {
  v1::RunPodSandboxRequest request;
  *request.mutable_config() = podConfig(name, sharedPid);
  if (hostPort != 0) {
    auto* port = request.mutable_config()->add_port_mappings();
    port->set_host_port(hostPort);
    port->set_container_port(kServedPort);
  }
  v1::RunPodSandboxResponse response;
  USERPOD_CHECK(runtimeCall("RunPodSandbox", &v1::RuntimeService::Stub::RunPodSandbox, request, &response));
  return Pod{response.pod_sandbox_id(), name};
}

Result<std::string> CriClient::podAddress(const Pod& pod) {
  v1::PodSandboxStatusRequest request;
  request.set_pod_sandbox_id(pod.id);
  v1::PodSandboxStatusResponse response;
  USERPOD_CHECK(runtimeCall("PodSandboxStatus", &v1::RuntimeService::Stub::PodSandboxStatus, request, &response));
  return response.status().network().ip();
}

Status CriClient::stopPod(const Pod& pod) {
  v1::StopPodSandboxRequest request;
  request.set_pod_sandbox_id(pod.id);
  v1::StopPodSandboxResponse response;
  return runtimeCall("StopPodSandbox", &v1::RuntimeService::Stub::StopPodSandbox, request, &response);
}

Status CriClient::removePod(const Pod& pod) {
  v1::RemovePodSandboxRequest request;
  request.set_pod_sandbox_id(pod.id);
  v1::RemovePodSandboxResponse response;
  return runtimeCall("RemovePodSandbox", &v1::RuntimeService::Stub::RemovePodSandbox, request, &response);
}

Result<std::string> CriClient::createContainer(const Pod& pod, const std::string& name, const std::string& image,
                                               bool stubborn) {
  v1::CreateContainerRequest request;
  request.set_pod_sandbox_id(pod.id);
  auto& config = *request.mutable_config();
  config.mutable_metadata()->set_name(name);
  config.mutable_image()->set_image(image);
  config.set_log_path(pod.name + "_" + name + ".log");
  if (stubborn) config.set_stop_signal(v1::SIGNAL_SIGURG);
  setNamespaces(config.mutable_linux()->mutable_security_context()->mutable_namespace_options());
  *request.mutable_sandbox_config() = podConfig(pod.name);
  v1::CreateContainerResponse response;
  USERPOD_CHECK(runtimeCall("CreateContainer", &v1::RuntimeService::Stub::CreateContainer, request, &response));
  return response.container_id();
}

Status CriClient::startContainer(const std::string& id) {
  v1::StartContainerRequest request;
  request.set_container_id(id);
  v1::StartContainerResponse response;
  return runtimeCall("StartContainer", &v1::RuntimeService::Stub::StartContainer, request, &response);
}

Status CriClient::stopContainer(const std::string& id, std::int64_t grace) {
  v1::StopContainerRequest request;
  request.set_container_id(id);
  request.set_timeout(grace);
  v1::StopContainerResponse response;
  return runtimeCall("StopContainer", &v1::RuntimeService::Stub::StopContainer, request, &response);
}

Status CriClient::removeContainer(const std::string& id) {
  v1::RemoveContainerRequest request;
  request.set_container_id(id);
  v1::RemoveContainerResponse response;
  return runtimeCall("RemoveContainer", &v1::RuntimeService::Stub::RemoveContainer, request, &response);
}

Status CriClient::exec(const std::string& id, const std::vector<std::string>& command) {
  v1::ExecSyncRequest request;
  request.set_container_id(id);
  for (const auto& word : command) request.add_cmd(word);
  v1::ExecSyncResponse response;
  USERPOD_CHECK(runtimeCall("ExecSync", &v1::RuntimeService::Stub::ExecSync, request, &response));
  if (response.exit_code() == 0) return {};
  return Error(Code::System, fmt::format("{} in the container: exit status {}: {}", command[0], response.exit_code(),
                                         response.stderr()));
}

Result<std::string> CriClient::execUrl(const std::string& id, const std::vector<std::string>& command, bool in) {
  v1::ExecRequest request;
  request.set_container_id(id);
  for (const auto& word : command) request.add_cmd(word);
  request.set_stdin(in);
  request.set_stdout(true);
  v1::ExecResponse response;
  USERPOD_CHECK(runtimeCall("Exec", &v1::RuntimeService::Stub::Exec, request, &response));
  return response.url();
}

Result<std::string> CriClient::portForwardUrl(const Pod& pod) {
  v1::PortForwardRequest request;
  request.set_pod_sandbox_id(pod.id);
  v1::PortForwardResponse response;
  USERPOD_CHECK(runtimeCall("PortForward", &v1::RuntimeService::Stub::PortForward, request, &response));
  return response.url();
}

Result<nlohmann::json> CriClient::containerInfo(const std::string& id) {
  v1::ContainerStatusRequest request;
  request.set_container_id(id);
  request.set_verbose(true);
  v1::ContainerStatusResponse response;
  USERPOD_CHECK(runtimeCall("ContainerStatus", &v1::RuntimeService::Stub::ContainerStatus, request, &response));
  auto info =
      nlohmann::json::parse(response.info().count("info") != 0 ? response.info().at("info") : "", nullptr, false);
  if (!info.is_object()) return Error(Code::Internal, "the verbose status of a container has no info");
  return info;
}

Result<nlohmann::json> CriClient::containerSpec(const std::string& id) {
  USERPOD_TRY(info, containerInfo(id));
  if (info.contains("runtimeSpec") && info["runtimeSpec"].is_object()) return info["runtimeSpec"];
  return Error(Code::Internal, "the verbose status of a container has no runtimeSpec");
}

Result<pid_t> CriClient::containerPid(const std::string& id) {
  USERPOD_TRY(info, containerInfo(id));
  if (info.contains("nodePid") && info["nodePid"].is_number_integer()) return info["nodePid"].get<pid_t>();
  return Error(Code::Internal, "the verbose status of a container has no nodePid");
}

Result<std::size_t> CriClient::listPods() {
  v1::ListPodSandboxResponse response;
  USERPOD_CHECK(
      runtimeCall("ListPodSandbox", &v1::RuntimeService::Stub::ListPodSandbox, v1::ListPodSandboxRequest(), &response));
  return static_cast<std::size_t>(response.items_size());
}

Result<std::size_t> CriClient::listContainers() {
  v1::ListContainersResponse response;
  USERPOD_CHECK(
      runtimeCall("ListContainers", &v1::RuntimeService::Stub::ListContainers, v1::ListContainersRequest(), &response));
  return static_cast<std::size_t>(response.containers_size());
}

Result<std::size_t> CriClient::listContainerStats() {
  v1::ListContainerStatsResponse response;
  USERPOD_CHECK(runtimeCall("ListContainerStats", &v1::RuntimeService::Stub::ListContainerStats,
                            v1::ListContainerStatsRequest(), &response));
  return static_cast<std::size_t>(std::count_if(response.stats().begin(), response.stats().end(), [](const auto& one) {
    return one.cpu().has_usage_core_nano_seconds();
  }));
}

Result<std::size_t> CriClient::listPodStats() {
  v1::ListPodSandboxStatsResponse response;
  USERPOD_CHECK(runtimeCall("ListPodSandboxStats", &v1::RuntimeService::Stub::ListPodSandboxStats,
                            v1::ListPodSandboxStatsRequest(), &response));
  return static_cast<std::size_t>(response.stats_size());
}

Result<std::size_t> CriClient::listPodMetrics() {
  v1::ListPodSandboxMetricsResponse response;
  USERPOD_CHECK(runtimeCall("ListPodSandboxMetrics", &v1::RuntimeService::Stub::ListPodSandboxMetrics,
                            v1::ListPodSandboxMetricsRequest(), &response));
  return static_cast<std::size_t>(response.pod_metrics_size());
}

Status CriClient::removeAll() {
  v1::ListPodSandboxRequest request;
  (*request.mutable_filter()->mutable_label_selector())[kLabel] = "1";
  v1::ListPodSandboxResponse response;
  USERPOD_CHECK(runtimeCall("ListPodSandbox", &v1::RuntimeService::Stub::ListPodSandbox, request, &response));
  std::atomic<int> next = 0;
  std::vector<Status> results(kRemovers);
  auto removeSome = [&](Status& result) {
    for (int index = next++; index < response.items_size(); index = next++) {
      const auto& item = response.items(index);
      Pod pod{item.id(), item.metadata().name()};
      auto removed = stopPod(pod);
      if (removed) removed = removePod(pod);
      if (!removed && result) result = std::move(removed);
    }
  };
  {
    std::vector<std::jthread> threads;
    for (auto& result : results) threads.emplace_back([&] { removeSome(result); });
  }
  Status result;
  for (auto& one : results)
    if (!one) result = std::move(one);
  auto logs = removeTree(kLogDirectory);
  return result ? std::move(logs) : std::move(result);
}

Status CriClient::pull(const std::string& image) {
  v1::PullImageRequest request;
  request.mutable_image()->set_image(image);
  v1::PullImageResponse response;
  return imageCall("PullImage", &v1::ImageService::Stub::PullImage, request, &response);
}

Result<std::vector<std::string>> CriClient::listImages() {
  v1::ListImagesResponse response;
  USERPOD_CHECK(imageCall("ListImages", &v1::ImageService::Stub::ListImages, v1::ListImagesRequest(), &response));
  std::vector<std::string> names;
  names.reserve(static_cast<std::size_t>(response.images_size()));
  for (const auto& image : response.images())
    names.push_back(image.repo_tags().empty() ? image.id() : image.repo_tags(0));
  return names;
}

Result<bool> CriClient::hasImage(const std::string& image) {
  v1::ImageStatusRequest request;
  request.mutable_image()->set_image(image);
  v1::ImageStatusResponse response;
  USERPOD_CHECK(imageCall("ImageStatus", &v1::ImageService::Stub::ImageStatus, request, &response));
  return response.has_image();
}

Status CriClient::removeImage(const std::string& image) {
  v1::RemoveImageRequest request;
  request.mutable_image()->set_image(image);
  v1::RemoveImageResponse response;
  return imageCall("RemoveImage", &v1::ImageService::Stub::RemoveImage, request, &response);
}

}  // namespace

Result<std::unique_ptr<Client>> Client::connect(const std::string& socket) {
  grpc::ChannelArguments arguments;
  arguments.SetMaxReceiveMessageSize(64 << 20);
  auto channel = grpc::CreateCustomChannel("unix:" + socket, grpc::InsecureChannelCredentials(), arguments);
  auto client = std::make_unique<CriClient>(channel);
  USERPOD_CHECK(client->waitReady());
  return std::unique_ptr<Client>(std::move(client));
}

}  // namespace userpod::bench

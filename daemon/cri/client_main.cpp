// userpod-cri: a small client of the CRI, to see a pod run without a kubelet. One command, one answer.
#include <fmt/core.h>
#include <grpcpp/grpcpp.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <memory>

#include "api.grpc.pb.h"
#include "daemon/sys/fd.hpp"
#include "daemon/sys/util.hpp"
#include "policy/settings.hpp"

namespace userpod {
namespace {

namespace v1 = runtime::v1;

struct Request {
  std::string endpoint;
  std::string image;
  std::string key;
  std::string name;
  std::vector<std::string> command;
  std::vector<std::string> rest;  // what stood after "--"
  bool hostNetwork = false;
  long long seconds = 10;
};

Error toError(std::string_view what, const grpc::Status& status) {
  if (status.error_code() == grpc::StatusCode::UNAVAILABLE)
    return {Code::NotReady, fmt::format("{}: {}; start the runtime with: systemctl --user start userpod.socket", what,
                                        status.error_message())};
  return {status.error_code() == grpc::StatusCode::INVALID_ARGUMENT ? Code::InvalidArgument : Code::RuntimeFailed,
          fmt::format("{}: {} (code {})", what, status.error_message(), static_cast<int>(status.error_code()))};
}

class Client {
 public:
  static Result<Client> open(const std::string& given) {
    std::string endpoint = given;
    if (endpoint.empty()) {
      USERPOD_TRY(paths, userPaths());
      endpoint = "unix://" + paths.criSocket();
    }
    auto channel = grpc::CreateChannel(endpoint, grpc::InsecureChannelCredentials());
    return Client(v1::RuntimeService::NewStub(channel), v1::ImageService::NewStub(channel));
  }

  // One call: call(&Stub::Method, request).
  template <typename Stub, typename In, typename Out>
  Result<Out> call(grpc::Status (Stub::*method)(grpc::ClientContext*, const In&, Out*), const In& request,
                   int seconds = 60) {
    grpc::ClientContext context;
    context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(seconds));
    Out answer;
    grpc::Status status;
    if constexpr (std::is_base_of_v<Stub, v1::ImageService::Stub>)
      status = (images_.get()->*method)(&context, request, &answer);
    else
      status = (runtime_.get()->*method)(&context, request, &answer);
    std::string type = request.GetTypeName();
    if (!status.ok()) return toError(type.substr(type.rfind('.') + 1), status);
    return answer;
  }

 private:
  Client(std::unique_ptr<v1::RuntimeService::Stub> runtime, std::unique_ptr<v1::ImageService::Stub> images)
      : runtime_(std::move(runtime)), images_(std::move(images)) {}
  std::unique_ptr<v1::RuntimeService::Stub> runtime_;
  std::unique_ptr<v1::ImageService::Stub> images_;
};

using Runtime = v1::RuntimeService::Stub;
using Images = v1::ImageService::Stub;

Status showVersion(Client& client, const Request&) {
  USERPOD_TRY(version, client.call(&Runtime::Version, v1::VersionRequest()));
  USERPOD_TRY(status, client.call(&Runtime::Status, v1::StatusRequest()));
  fmt::print("{} {} (CRI {})\n", version.runtime_name(), version.runtime_version(), version.runtime_api_version());
  for (const auto& condition : status.status().conditions())
    fmt::print("  {}: {}{}{}\n", condition.type(), condition.status() ? "yes" : "no",
               condition.message().empty() ? "" : ", ", condition.message());
  return {};
}

Result<std::string> pullImage(Client& client, const std::string& image) {
  v1::PullImageRequest request;
  request.mutable_image()->set_image(image);
  USERPOD_TRY(answer, client.call(&Images::PullImage, request, 900));
  return answer.image_ref();
}

Status pull(Client& client, const Request& request) {
  USERPOD_TRY(id, pullImage(client, request.image));
  fmt::print("{}\n", id);
  return {};
}

v1::PodSandboxConfig podConfig(const Request& request) {
  v1::PodSandboxConfig config;
  auto& metadata = *config.mutable_metadata();
  metadata.set_name(request.name.empty() ? "pod-" + randomHex(4) : request.name);
  metadata.set_uid(randomHex(16));
  metadata.set_namespace_("default");
  config.set_log_directory(fmt::format("/var/log/pods/default_{}_{}", metadata.name(), metadata.uid()));
  if (request.hostNetwork) {
    config.mutable_linux()->mutable_security_context()->mutable_namespace_options()->set_network(v1::NODE);
  } else {
    config.set_hostname(metadata.name());
  }
  return config;
}

v1::ContainerConfig containerConfig(const Request& request) {
  v1::ContainerConfig config;
  config.mutable_metadata()->set_name("main");
  config.mutable_image()->set_image(request.image);
  config.set_log_path("main/0.log");
  for (const auto& word : request.command) config.add_command(word);
  return config;
}

Result<std::string> startContainer(Client& client, const Request& request, const std::string& pod,
                                   const v1::PodSandboxConfig& config) {
  v1::CreateContainerRequest create;
  create.set_pod_sandbox_id(pod);
  *create.mutable_sandbox_config() = config;
  *create.mutable_config() = containerConfig(request);
  USERPOD_TRY(container, client.call(&Runtime::CreateContainer, create));
  v1::StartContainerRequest start;
  start.set_container_id(container.container_id());
  USERPOD_TRY(started, client.call(&Runtime::StartContainer, start));
  (void)started;
  return container.container_id();
}

Status removePod(Client& client, const std::string& pod) {
  v1::StopPodSandboxRequest stop;
  stop.set_pod_sandbox_id(pod);
  USERPOD_TRY(stopped, client.call(&Runtime::StopPodSandbox, stop, 120));
  (void)stopped;
  v1::RemovePodSandboxRequest remove;
  remove.set_pod_sandbox_id(pod);
  USERPOD_TRY(removed, client.call(&Runtime::RemovePodSandbox, remove));
  (void)removed;
  return {};
}

Status runPod(Client& client, const Request& request) {
  v1::ImageStatusRequest known;
  known.mutable_image()->set_image(request.image);
  USERPOD_TRY(image, client.call(&Images::ImageStatus, known));
  if (!image.has_image()) {
    USERPOD_TRY(pulled, pullImage(client, request.image));
    (void)pulled;
  }
  v1::RunPodSandboxRequest run;
  *run.mutable_config() = podConfig(request);
  USERPOD_TRY(pod, client.call(&Runtime::RunPodSandbox, run));
  auto container = startContainer(client, request, pod.pod_sandbox_id(), run.config());
  if (!container) {
    (void)removePod(client, pod.pod_sandbox_id());
    return std::move(container).error();
  }
  fmt::print("pod {}\ncontainer {}\n", pod.pod_sandbox_id(), *container);
  return {};
}

Result<v1::ContainerStatus> statusOf(Client& client, const std::string& id) {
  v1::ContainerStatusRequest request;
  request.set_container_id(id);
  USERPOD_TRY(answer, client.call(&Runtime::ContainerStatus, request));
  return answer.status();
}

Status showLog(Client& client, const Request& request) {
  USERPOD_TRY(status, statusOf(client, request.key));
  if (status.log_path().empty()) return Error(Code::NotSupported, "the container keeps no log");
  auto file = openFile(status.log_path(), O_RDONLY);
  if (!file)
    return std::move(file).error().wrap("the log is a file of the node: userpodctl enter -- userpod-cri logs " +
                                        request.key);
  std::string block(64 << 10, '\0');
  for (;;) {
    ssize_t count = ::read(file->get(), block.data(), block.size());
    if (count < 0) return sysError(status.log_path());
    if (count == 0) return {};
    USERPOD_CHECK(writeAll(STDOUT_FILENO, std::string_view(block).substr(0, static_cast<std::size_t>(count))));
  }
}

// The command's exit status becomes the program's.
Result<int> execute(Client& client, const Request& request) {
  v1::ExecSyncRequest exec;
  exec.set_container_id(request.key);
  for (const auto& word : request.command) exec.add_cmd(word);
  exec.set_timeout(request.seconds);
  USERPOD_TRY(answer, client.call(&Runtime::ExecSync, exec, static_cast<int>(request.seconds) + 10));
  USERPOD_CHECK(writeAll(STDOUT_FILENO, answer.stdout()));
  USERPOD_CHECK(writeAll(STDERR_FILENO, answer.stderr()));
  return answer.exit_code();
}

// Waits for the container's end; its exit code becomes the program's.
Result<int> waitForExit(Client& client, const Request& request) {
  auto end = std::chrono::steady_clock::now() + std::chrono::seconds(request.seconds);
  for (;;) {
    USERPOD_TRY(status, statusOf(client, request.key));
    if (status.state() == v1::CONTAINER_EXITED) return status.exit_code();
    if (std::chrono::steady_clock::now() >= end) return Error(Code::Timeout, "the container still runs");
    ::usleep(50'000);
  }
}

Status listPods(Client& client, const Request&) {
  USERPOD_TRY(answer, client.call(&Runtime::ListPodSandbox, v1::ListPodSandboxRequest()));
  for (const auto& pod : answer.items())
    fmt::print("{}  {}/{}  {}\n", pod.id(), pod.metadata().namespace_(), pod.metadata().name(),
               pod.state() == v1::SANDBOX_READY ? "ready" : "not ready");
  return {};
}

Status listContainers(Client& client, const Request&) {
  USERPOD_TRY(answer, client.call(&Runtime::ListContainers, v1::ListContainersRequest()));
  for (const auto& container : answer.containers())
    fmt::print("{}  {}  pod {}  {}  {}\n", container.id(), container.metadata().name(), container.pod_sandbox_id(),
               v1::ContainerState_Name(container.state()), container.image().image());
  return {};
}

Status listImages(Client& client, const Request&) {
  USERPOD_TRY(answer, client.call(&Images::ListImages, v1::ListImagesRequest()));
  for (const auto& image : answer.images())
    fmt::print("{}  {} bytes  {}\n", image.id(), image.size(), image.repo_tags_size() > 0 ? image.repo_tags(0) : "-");
  return {};
}

Status removePodCommand(Client& client, const Request& request) {
  return removePod(client, request.key);
}

int finish(const Status& status) {
  if (status) return 0;
  fmt::print(stderr, "userpod-cri: {}\n", status.error().text());
  return exitStatus(status.error().code());
}

int finish(const Result<int>& status) {
  if (status) return *status;
  return finish(Status(Error(status.error())));
}

template <typename Run>
CLI::App* add(CLI::App& app, Request& request, int& status, const char* name, const char* text, Run run) {
  auto* command = app.add_subcommand(name, text);
  command->callback([&request, &status, run] {
    request.command.insert(request.command.end(), request.rest.begin(), request.rest.end());
    auto client = Client::open(request.endpoint);
    status = client ? finish(run(*client, request)) : finish(Status(std::move(client).error()));
  });
  return command;
}

void addCommands(CLI::App& app, Request& request, int& status) {
  add(app, request, status, "version", "Version and conditions of the runtime", showVersion);
  add(app, request, status, "pull", "Fetch an image", pull)->add_option("image", request.image)->required();
  add(app, request, status, "images", "List images", listImages);
  auto* run = add(app, request, status, "run", "Run a pod with one container: run IMAGE -- CMD ARG...", runPod);
  run->add_option("image", request.image)->required();
  run->add_option("command", request.command, "In place of the image's own, best after --");
  run->add_option("--name", request.name, "Name of the pod");
  run->add_flag("--host-network", request.hostNetwork, "Share the node's network");
  add(app, request, status, "logs", "Print a container's log (in the node: userpodctl enter -- userpod-cri logs ID)",
      showLog)
      ->add_option("container", request.key)
      ->required();
  auto* exec = add(app, request, status, "exec", "Run a command in a container: exec ID -- CMD ARG...", execute);
  exec->add_option("container", request.key)->required();
  exec->add_option("command", request.command, "Best after --");
  exec->add_option("--timeout", request.seconds, "Seconds")->check(CLI::Range(1LL, 3600LL));
  auto* wait = add(app, request, status, "wait", "Wait for a container's end and exit with its exit code", waitForExit);
  wait->add_option("container", request.key)->required();
  wait->add_option("--timeout", request.seconds, "Seconds")->check(CLI::Range(1LL, 86400LL));
  add(app, request, status, "pods", "List pods", listPods);
  add(app, request, status, "ps", "List containers", listContainers);
  add(app, request, status, "rm", "Stop and remove a pod with its containers", removePodCommand)
      ->add_option("pod", request.key)
      ->required();
}

}  // namespace
}  // namespace userpod

int main(int argc, char** argv) {
  CLI::App app("userpod-cri: a small client of the Kubernetes container runtime interface", "userpod-cri");
  userpod::Request request;
  int status = 0;
  const char* endpoint = std::getenv("CONTAINER_RUNTIME_ENDPOINT");
  request.endpoint = endpoint != nullptr ? endpoint : "";
  app.require_subcommand(1);
  app.set_version_flag("--version", "userpod-cri " USERPOD_VERSION);
  app.add_option("--endpoint", request.endpoint,
                 "unix:///path; default: $CONTAINER_RUNTIME_ENDPOINT, or this user's userpod");
  userpod::addCommands(app, request, status);
  std::vector<std::string> words(argv + 1, argv + argc);
  for (auto word = words.begin(); word != words.end(); ++word) {
    if (*word != "--") continue;
    request.rest.assign(word + 1, words.end());
    words.erase(word, words.end());
    break;
  }
  try {
    app.parse(std::vector<std::string>(words.rbegin(), words.rend()));
  } catch (const CLI::ParseError& error) {
    int failed = app.exit(error);
    return failed == 0 ? 0 : userpod::exitStatus(userpod::Code::InvalidArgument);
  }
  return status;
}

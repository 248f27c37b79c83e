// RuntimeService: the calls about the runtime itself.
#include <fmt/core.h>

#include "daemon/cri/info.hpp"
#include "daemon/cri/runtime_service.hpp"

namespace userpod::cri {
namespace {

constexpr const char* kKubeletApiVersion = "0.1.0";
constexpr const char* kRuntimeName = "userpod";  // the scheme of container ids in Kubernetes: never changes
constexpr const char* kApiVersion = "v1";

}  // namespace

void fillConditions(const core::Core& core, v1::RuntimeStatus* status) {
  auto snapshot = core.snapshot();
  for (const auto& condition : snapshot->conditions) {
    auto* message = status->add_conditions();
    message->set_type(condition.type);
    message->set_status(condition.ok);
    message->set_reason(toText(condition.reason));
    message->set_message(toText(condition.message));
  }
}

void fillHandlers(const core::Core& core, v1::StatusResponse* response) {
  const auto current = core.settings();
  const Settings& settings = *current;
  // The empty name is the default's; kubelet looks it up.
  std::vector<std::string> names{"", settings.defaultRuntime};
  for (const auto& [name, handler] : settings.runtimes)
    if (name != settings.defaultRuntime) names.push_back(name);
  for (const auto& name : names) {
    if (!core.hasHandler(name)) continue;
    auto* handler = response->add_runtime_handlers();
    handler->set_name(name);
    handler->mutable_features()->set_recursive_read_only_mounts(core.recursiveReadOnly(name));
    handler->mutable_features()->set_user_namespaces(false);
  }
  auto* features = response->mutable_features();
  features->set_supplemental_groups_policy(true);
  features->set_user_namespaces_host_network(false);
  features->set_mount_options(false);
}

std::string configInfo(const core::Core& core) {
  const core::Info& info = core.info();
  const Paths& paths = core.paths();
  const auto current = core.settings();
  const Settings& settings = *current;
  nlohmann::json runtimes = nlohmann::json::object();
  for (const auto& [name, handler] : settings.runtimes) runtimes[name] = handler.path;
  return printInfo({{"stateDir", paths.data},
                    {"runtimeDir", paths.runtime},
                    {"configDir", paths.config},
                    {"podLogs", paths.podLogs()},
                    {"graphRoot", info.graphRoot},
                    {"storageDriver", info.storageDriver},
                    {"storageDriverReason", info.storageReason},
                    {"networkStack", info.networkStack},
                    {"ociRuntime", {{"name", info.ociRuntimeName}, {"version", info.ociRuntimeVersion}}},
                    {"cgroupDriver", "cgroupfs"},
                    {"logLevel", settings.logLevel},
                    {"uplink", settings.uplink},
                    {"subnet", settings.subnet},
                    {"defaultRuntime", settings.defaultRuntime},
                    {"runtimes", runtimes},
                    {"conmon", settings.conmon},
                    {"imageSizeLimit", settings.imageSizeLimit},
                    {"imageEntriesLimit", settings.imageEntriesLimit},
                    {"imageRatioLimit", settings.imageRatioLimit},
                    {"pinnedImages", settings.pinnedImages},
                    {"ignoreChownErrors", settings.ignoreChownErrors},
                    {"pullStallTimeout", settings.pullStallTimeout},
                    {"nofile", fmt::format("{}:{}", settings.nofile.soft, settings.nofile.hard)},
                    {"allowRuntimeDirectoryMounts", settings.allowRuntimeDirectoryMounts},
                    {"pidsLimit", settings.pidsLimit}});
}

std::string diagnosisInfo(const std::vector<Check>& checks) {
  nlohmann::json list = nlohmann::json::array();
  for (const auto& check : checks)
    list.push_back({{"name", check.name},
                    {"severity", severityName(check.severity)},
                    {"message", check.message},
                    {"hints", check.hints}});
  return printInfo(list);
}

std::string eventsInfo(const EventHub& events) {
  auto counts = events.counts();
  return printInfo({{"clients", counts.clients}, {"dropped", counts.dropped}});
}

grpc::ServerUnaryReactor* RuntimeService::Version(Context* context, const v1::VersionRequest*,
                                                  v1::VersionResponse* response) {
  response->set_version(kKubeletApiVersion);
  response->set_runtime_name(kRuntimeName);
  response->set_runtime_version(USERPOD_VERSION);
  response->set_runtime_api_version(kApiVersion);
  return answer(context, {"Version"}, {});
}

grpc::ServerUnaryReactor* RuntimeService::Status(Context* context, const v1::StatusRequest* request,
                                                 v1::StatusResponse* response) {
  fillConditions(core_, response->mutable_status());
  fillHandlers(core_, response);
  if (!request->verbose()) return answer(context, {"Status"}, {});
  return calls_->run({"Status"}, [&](std::shared_ptr<Reply> reply, std::stop_token) {
    auto& info = *response->mutable_info();
    info["config"] = configInfo(core_);
    info["events"] = eventsInfo(events_);
    core_.diagnose([reply, response](const std::vector<Check>& checks) {
      reply->ok([&] { (*response->mutable_info())["diagnosis"] = diagnosisInfo(checks); });
    });
  });
}

grpc::ServerUnaryReactor* RuntimeService::RuntimeConfig(Context* context, const v1::RuntimeConfigRequest*,
                                                        v1::RuntimeConfigResponse* response) {
  response->mutable_linux()->set_cgroup_driver(v1::CGROUPFS);
  return answer(context, {"RuntimeConfig"}, {});
}

// The pods' addresses come from userpod.toml: a cluster's range is heard and not used.
grpc::ServerUnaryReactor* RuntimeService::UpdateRuntimeConfig(Context* context, const v1::UpdateRuntimeConfigRequest*,
                                                              v1::UpdateRuntimeConfigResponse*) {
  return answer(context, {"UpdateRuntimeConfig"}, {});
}

}  // namespace userpod::cri

// Records of containers as the contract shows them.
#include "daemon/cri/calls.hpp"
#include "daemon/cri/containers.hpp"
#include "daemon/cri/info.hpp"
#include "daemon/cri/pods.hpp"
#include "daemon/cri/resources.hpp"
#include "daemon/cri/signals.hpp"

namespace userpod::cri {
namespace {

using State = ContainerRecord::State;

v1::ContainerState stateOf(const ContainerRecord& container) {
  switch (container.state) {
    case State::Creating:
    case State::Created:
      return v1::CONTAINER_CREATED;
    case State::Running:
      return v1::CONTAINER_RUNNING;
    case State::Exited:
      return v1::CONTAINER_EXITED;
    case State::Unknown:
      break;
  }
  return v1::CONTAINER_UNKNOWN;
}

// What the list and the status have in common.
template <typename Message>
void fillCommon(const ContainerRecord& container, Message* message) {
  const ContainerConfig& config = container.config;
  message->set_id(container.id);
  message->mutable_metadata()->set_name(config.name);
  message->mutable_metadata()->set_attempt(config.attempt);
  message->set_state(stateOf(container));
  message->set_created_at(container.createdAt);
  message->mutable_image()->set_image(container.imageName.empty() ? config.image : container.imageName);
  message->mutable_image()->set_user_specified_image(config.userSpecifiedImage);
  message->set_image_ref(container.imageId);
  message->set_image_id(container.imageId);
  message->mutable_labels()->insert(config.labels.begin(), config.labels.end());
  message->mutable_annotations()->insert(config.annotations.begin(), config.annotations.end());
}

void fillMount(const MountConfig& mount, v1::Mount* message) {
  message->set_container_path(mount.containerPath);
  message->set_host_path(mount.hostPath);
  message->set_readonly(mount.readonly);
  message->set_recursive_read_only(mount.recursiveReadOnly);
  message->set_selinux_relabel(mount.selinuxRelabel);
  message->set_propagation(static_cast<v1::MountPropagation>(mount.propagation));
  if (mount.image.empty()) return;
  message->mutable_image()->set_image(mount.image);
  message->mutable_image()->set_image_ref(mount.imageId);
  message->set_image_sub_path(mount.imageSubPath);
}

}  // namespace

bool visible(const ContainerRecord& container) {
  return container.origin == Origin::Cri && container.state != State::Creating;
}

bool matches(const v1::ContainerFilter& filter, const ContainerRecord& container) {
  return visible(container) && container.id.starts_with(filter.id()) &&
         container.podId.starts_with(filter.pod_sandbox_id()) &&
         (!filter.has_state() || filter.state().state() == stateOf(container)) &&
         selects(filter.label_selector(), container.config.labels);
}

void fillItem(const ContainerRecord& container, v1::Container* item) {
  fillCommon(container, item);
  item->set_pod_sandbox_id(container.podId);
}

void fillStatus(const ContainerRecord& container, v1::ContainerStatus* status) {
  fillCommon(container, status);
  // The contract: zero until it has happened, and an exit code only with a finish time.
  if (container.state != State::Created) status->set_started_at(container.startedAt);
  if (container.state == State::Exited) {
    status->set_finished_at(container.finishedAt);
    status->set_exit_code(container.exitCode);
  }
  status->set_reason(toText(container.reason));
  status->set_message(toText(container.message));
  status->set_log_path(container.logPath);
  for (const auto& mount : container.config.mounts) fillMount(mount, status->add_mounts());
  if (container.config.resources)
    fillResources(*container.config.resources, status->mutable_resources()->mutable_linux());
  auto* user = status->mutable_user()->mutable_linux();
  user->set_uid(container.user.uid);
  user->set_gid(container.user.gid);
  for (auto group : container.user.groups) user->add_supplemental_groups(group);
  status->set_stop_signal(static_cast<v1::Signal>(toCriSignal(container.stopSignal)));
}

std::string containerInfo(const ContainerRecord& container, pid_t hostPid, const std::string& spec) {
  const ContainerConfig& config = container.config;
  nlohmann::json linux = nlohmann::json::object();
  if (config.resources) linux["resources"] = resourcesInfo(*config.resources);
  return printInfo({{"sandboxID", container.podId},
                    {"pid", hostPid},
                    {"nodePid", container.pid},
                    {"cgroup", container.cgroup},
                    {"paused", container.paused},
                    {"privileged", config.security.privileged},
                    {"oomKills", container.oomKills},
                    {"imageID", container.imageId},
                    {"config",
                     {{"metadata", {{"name", config.name}, {"attempt", config.attempt}}},
                      {"image", {{"image", config.image}, {"user_specified_image", config.userSpecifiedImage}}},
                      {"command", config.command},
                      {"args", config.args},
                      {"working_dir", config.workingDirectory},
                      {"labels", config.labels},
                      {"annotations", config.annotations},
                      {"log_path", config.logPath},
                      {"stdin", config.stdinOpen},
                      {"stdin_once", config.stdinOnce},
                      {"tty", config.tty},
                      {"linux", std::move(linux)}}},
                    {"runtimeSpec", parseForInfo(spec)}});
}

}  // namespace userpod::cri

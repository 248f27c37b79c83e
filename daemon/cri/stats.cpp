#include "daemon/cri/stats.hpp"

#include <algorithm>

#include "daemon/cri/containers.hpp"
#include "daemon/cri/pods.hpp"

namespace userpod::cri {
namespace {

void fillPressureShare(const stats::Pressure::Share& share, v1::PsiData* message) {
  message->set_total(share.total);
  message->set_avg10(share.avg10);
  message->set_avg60(share.avg60);
  message->set_avg300(share.avg300);
}

void fillPressure(const stats::Pressure& pressure, v1::PsiStats* message) {
  fillPressureShare(pressure.full, message->mutable_full());
  fillPressureShare(pressure.some, message->mutable_some());
}

void fillCpu(const stats::CgroupFigures& figures, v1::CpuUsage* message) {
  const stats::CpuFigures& cpu = figures.cpu;
  message->set_timestamp(figures.timestamp);
  if (cpu.usage) message->mutable_usage_core_nano_seconds()->set_value(*cpu.usage);
  if (cpu.rate) message->mutable_usage_nano_cores()->set_value(*cpu.rate);
  if (cpu.pressure) fillPressure(*cpu.pressure, message->mutable_psi());
}

void fillMemory(const stats::CgroupFigures& figures, v1::MemoryUsage* message) {
  const stats::MemoryFigures& memory = figures.memory;
  message->set_timestamp(figures.timestamp);
  if (memory.workingSet) message->mutable_working_set_bytes()->set_value(*memory.workingSet);
  if (memory.available) message->mutable_available_bytes()->set_value(*memory.available);
  if (memory.usage) message->mutable_usage_bytes()->set_value(*memory.usage);
  if (memory.anonymous) message->mutable_rss_bytes()->set_value(*memory.anonymous);
  if (memory.pageFaults) message->mutable_page_faults()->set_value(*memory.pageFaults);
  if (memory.majorPageFaults) message->mutable_major_page_faults()->set_value(*memory.majorPageFaults);
  if (memory.pressure) fillPressure(*memory.pressure, message->mutable_psi());
}

void fillSwap(const stats::CgroupFigures& figures, v1::SwapUsage* message) {
  const stats::MemoryFigures& memory = figures.memory;
  message->set_timestamp(figures.timestamp);
  message->mutable_swap_usage_bytes()->set_value(*memory.swap);
  if (!memory.swapLimit) return;
  // What it holds may be more than a limit that came later.
  message->mutable_swap_available_bytes()->set_value(*memory.swapLimit - std::min(*memory.swapLimit, *memory.swap));
}

void fillIo(const stats::CgroupFigures& figures, v1::IoUsage* message) {
  message->set_timestamp(figures.timestamp);
  fillPressure(*figures.io.pressure, message->mutable_psi());
}

void fillLayer(const stats::LayerFigures& layer, const std::string& layers, v1::FilesystemUsage* message) {
  message->set_timestamp(layer.timestamp);
  message->mutable_fs_id()->set_mountpoint(layers);
  message->mutable_used_bytes()->set_value(layer.bytes);
  message->mutable_inodes_used()->set_value(layer.inodes);
}

void fillInterface(const stats::InterfaceFigures& figures, v1::NetworkInterfaceUsage* message) {
  message->set_name(figures.name);
  message->mutable_rx_bytes()->set_value(figures.receivedBytes);
  message->mutable_rx_errors()->set_value(figures.receiveErrors);
  message->mutable_tx_bytes()->set_value(figures.sentBytes);
  message->mutable_tx_errors()->set_value(figures.sendErrors);
}

void fillNetwork(const stats::PodFigures& figures, v1::NetworkUsage* message) {
  message->set_timestamp(figures.networkTimestamp);
  fillInterface(figures.interfaces.front(), message->mutable_default_interface());
  for (std::size_t i = 1; i < figures.interfaces.size(); ++i)
    fillInterface(figures.interfaces[i], message->add_interfaces());
}

void fillAttributes(const ContainerRecord& container, v1::ContainerAttributes* message) {
  const ContainerConfig& config = container.config;
  message->set_id(container.id);
  message->mutable_metadata()->set_name(config.name);
  message->mutable_metadata()->set_attempt(config.attempt);
  message->mutable_labels()->insert(config.labels.begin(), config.labels.end());
  message->mutable_annotations()->insert(config.annotations.begin(), config.annotations.end());
}

void fillAttributes(const PodRecord& pod, v1::PodSandboxAttributes* message) {
  const PodConfig& config = pod.config;
  message->set_id(pod.id);
  message->mutable_metadata()->set_name(config.name);
  message->mutable_metadata()->set_namespace_(config.nameSpace);
  message->mutable_metadata()->set_uid(config.uid);
  message->mutable_metadata()->set_attempt(config.attempt);
  message->mutable_labels()->insert(config.labels.begin(), config.labels.end());
  message->mutable_annotations()->insert(config.annotations.begin(), config.annotations.end());
}

}  // namespace

bool matches(const v1::ContainerStatsFilter& filter, const ContainerRecord& container) {
  return visible(container) && (container.state == ContainerRecord::State::Running || !filter.id().empty()) &&
         container.id.starts_with(filter.id()) && container.podId.starts_with(filter.pod_sandbox_id()) &&
         selects(filter.label_selector(), container.config.labels);
}

bool matches(const v1::PodSandboxStatsFilter& filter, const PodRecord& pod) {
  return visible(pod) && (pod.state == PodRecord::State::Ready || !filter.id().empty()) &&
         pod.id.starts_with(filter.id()) && selects(filter.label_selector(), pod.config.labels);
}

void fillStats(const stats::ContainerFigures& figures, const std::string& layers, v1::ContainerStats* message) {
  fillAttributes(*figures.container, message->mutable_attributes());
  if (figures.cgroup) {
    fillCpu(*figures.cgroup, message->mutable_cpu());
    fillMemory(*figures.cgroup, message->mutable_memory());
    if (figures.cgroup->memory.swap) fillSwap(*figures.cgroup, message->mutable_swap());
    if (figures.cgroup->io.pressure) fillIo(*figures.cgroup, message->mutable_io());
  }
  if (figures.layer) fillLayer(*figures.layer, layers, message->mutable_writable_layer());
}

void fillStats(const stats::PodFigures& figures, const std::string& layers, v1::PodSandboxStats* message) {
  fillAttributes(*figures.pod, message->mutable_attributes());
  v1::LinuxPodSandboxStats* linux = message->mutable_linux();
  if (figures.cgroup) {
    fillCpu(*figures.cgroup, linux->mutable_cpu());
    fillMemory(*figures.cgroup, linux->mutable_memory());
    if (figures.cgroup->io.pressure) fillIo(*figures.cgroup, linux->mutable_io());
    if (figures.cgroup->tasks) {
      linux->mutable_process()->set_timestamp(figures.cgroup->timestamp);
      linux->mutable_process()->mutable_process_count()->set_value(*figures.cgroup->tasks);
    }
  }
  if (!figures.interfaces.empty()) fillNetwork(figures, linux->mutable_network());
  linux->mutable_containers()->Reserve(static_cast<int>(figures.containers.size()));
  for (const auto& container : figures.containers)
    if (visible(*container.container)) fillStats(container, layers, linux->add_containers());
}

}  // namespace userpod::cri

#include "daemon/cri/metrics.hpp"

#include <fmt/core.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <initializer_list>
#include <string_view>

#include "daemon/cri/containers.hpp"

namespace userpod::cri {
namespace {

using stats::Figure;

// Of every metric, in this order.
constexpr std::array<std::string_view, 5> kLabels{"id", "image", "namespace", "pod", "container"};

// What else labels it, by the word in the table.
constexpr std::array<std::string_view, 0> kPlain{};
constexpr std::array<std::string_view, 1> kCpu{"cpu"};
constexpr std::array<std::string_view, 1> kDevice{"device"};
constexpr std::array<std::string_view, 4> kOperation{"device", "major", "minor", "operation"};
constexpr std::array<std::string_view, 1> kPageSize{"pagesize"};
constexpr std::array<std::string_view, 2> kFailure{"failure_type", "scope"};
constexpr std::array<std::string_view, 1> kInterface{"interface"};
constexpr std::array<std::string_view, 1> kLimit{"ulimit"};

// Columns: word in this file, name, type, further labels, help.
#define USERPOD_METRIC_TABLE(X)                                                                                        \
  X(LastSeen, "container_last_seen", GAUGE, kPlain, "When the container was seen last, in seconds since the epoch")    \
  X(StartTime, "container_start_time_seconds", GAUGE, kPlain, "When it was started, in seconds since the epoch")       \
  X(CpuUsage, "container_cpu_usage_seconds_total", COUNTER, kCpu, "Processor time used, in seconds")                   \
  X(CpuUser, "container_cpu_user_seconds_total", COUNTER, kPlain, "Processor time used by programs, in seconds")       \
  X(CpuSystem, "container_cpu_system_seconds_total", COUNTER, kPlain,                                                  \
    "Processor time used by the kernel for them, in seconds")                                                          \
  X(CpuPeriods, "container_cpu_cfs_periods_total", COUNTER, kPlain, "Periods in which a quota of processor time held") \
  X(CpuThrottled, "container_cpu_cfs_throttled_periods_total", COUNTER, kPlain, "Periods whose quota was used up")     \
  X(CpuThrottledTime, "container_cpu_cfs_throttled_seconds_total", COUNTER, kPlain,                                    \
    "Time waited for the next period, in seconds")                                                                     \
  X(MemoryUsage, "container_memory_usage_bytes", GAUGE, kPlain, "Memory in use with all caches, in bytes")             \
  X(MemoryPeak, "container_memory_max_usage_bytes", GAUGE, kPlain, "The most memory there was in use, in bytes")       \
  X(MemoryWorkingSet, "container_memory_working_set_bytes", GAUGE, kPlain,                                             \
    "Memory in use without file pages of no recent use, in bytes")                                                     \
  X(MemoryRss, "container_memory_rss", GAUGE, kPlain, "Anonymous memory, in bytes")                                    \
  X(MemoryCache, "container_memory_cache", GAUGE, kPlain, "Pages of files, in bytes")                                  \
  X(MemoryMappedFile, "container_memory_mapped_file", GAUGE, kPlain, "Pages of files that are mapped, in bytes")       \
  X(MemoryKernel, "container_memory_kernel_usage", GAUGE, kPlain, "Memory the kernel uses for it, in bytes")           \
  X(MemorySwap, "container_memory_swap", GAUGE, kPlain, "Memory that is swapped out, in bytes")                        \
  X(MemoryFailCount, "container_memory_failcnt", COUNTER, kPlain, "How often usage was about to exceed the limit")     \
  X(MemoryFailures, "container_memory_failures_total", COUNTER, kFailure,                                              \
    "Page faults: all, and those that had to wait for a disk")                                                         \
  X(OomEvents, "container_oom_events_total", COUNTER, kPlain, "Processes killed for want of memory")                   \
  X(FsUsage, "container_fs_usage_bytes", GAUGE, kPlain, "What its writable layer has on disk, in bytes")               \
  X(FsLimit, "container_fs_limit_bytes", GAUGE, kPlain, "Size of the file system of its writable layer, in bytes")     \
  X(FsInodes, "container_fs_inodes_total", GAUGE, kPlain, "Inodes of the file system of its writable layer")           \
  X(FsInodesFree, "container_fs_inodes_free", GAUGE, kPlain, "Those of them that are free")                            \
  X(FsReads, "container_fs_reads_total", COUNTER, kDevice, "Reads from the device")                                    \
  X(FsReadBytes, "container_fs_reads_bytes_total", COUNTER, kDevice, "Read from the device, in bytes")                 \
  X(FsWrites, "container_fs_writes_total", COUNTER, kDevice, "Writes to the device")                                   \
  X(FsWriteBytes, "container_fs_writes_bytes_total", COUNTER, kDevice, "Written to the device, in bytes")              \
  X(BlkioUsage, "container_blkio_device_usage_total", COUNTER, kOperation,                                             \
    "Read from or written to the device, in bytes")                                                                    \
  X(Hugetlb, "container_hugetlb_usage_bytes", GAUGE, kPageSize, "Huge pages in use, in bytes")                         \
  X(HugetlbPeak, "container_hugetlb_max_usage_bytes", GAUGE, kPageSize, "The most huge pages in use, in bytes")        \
  X(Processes, "container_processes", GAUGE, kPlain, "Processes")                                                      \
  X(Threads, "container_threads", GAUGE, kPlain, "Threads of all processes")                                           \
  X(ThreadsMax, "container_threads_max", GAUGE, kPlain, "How many threads there may be; 0: any number")                \
  X(FileDescriptors, "container_file_descriptors", GAUGE, kPlain, "Open file descriptors of all processes")            \
  X(Sockets, "container_sockets", GAUGE, kPlain, "Those of them that are sockets")                                     \
  X(Ulimits, "container_ulimits_soft", GAUGE, kLimit, "Soft resource limits of its first process")                     \
  X(SpecCpuPeriod, "container_spec_cpu_period", GAUGE, kPlain, "Period of its quota, in microseconds")                 \
  X(SpecCpuQuota, "container_spec_cpu_quota", GAUGE, kPlain, "Processor time in each period, in microseconds")         \
  X(SpecCpuShares, "container_spec_cpu_shares", GAUGE, kPlain, "Its share of the processors, 1024 being usual")        \
  X(SpecMemory, "container_spec_memory_limit_bytes", GAUGE, kPlain, "Memory limit in bytes; 0: none")                  \
  X(SpecMemoryReservation, "container_spec_memory_reservation_limit_bytes", GAUGE, kPlain,                             \
    "Memory that is kept for it, in bytes")                                                                            \
  X(SpecMemorySwap, "container_spec_memory_swap_limit_bytes", GAUGE, kPlain,                                           \
    "Limit of memory and swap together, in bytes; 0: none")                                                            \
  X(PressureCpuSome, "container_pressure_cpu_waiting_seconds_total", COUNTER, kPlain,                                  \
    "Time in which a task waited for a processor, in seconds")                                                         \
  X(PressureCpuFull, "container_pressure_cpu_stalled_seconds_total", COUNTER, kPlain,                                  \
    "Time in which all tasks waited for a processor, in seconds")                                                      \
  X(PressureMemorySome, "container_pressure_memory_waiting_seconds_total", COUNTER, kPlain,                            \
    "Time in which a task waited for memory, in seconds")                                                              \
  X(PressureMemoryFull, "container_pressure_memory_stalled_seconds_total", COUNTER, kPlain,                            \
    "Time in which all tasks waited for memory, in seconds")                                                           \
  X(PressureIoSome, "container_pressure_io_waiting_seconds_total", COUNTER, kPlain,                                    \
    "Time in which a task waited for a device, in seconds")                                                            \
  X(PressureIoFull, "container_pressure_io_stalled_seconds_total", COUNTER, kPlain,                                    \
    "Time in which all tasks waited for a device, in seconds")                                                         \
  X(ReceiveBytes, "container_network_receive_bytes_total", COUNTER, kInterface, "Received, in bytes")                  \
  X(ReceivePackets, "container_network_receive_packets_total", COUNTER, kInterface, "Packets received")                \
  X(ReceiveDrops, "container_network_receive_packets_dropped_total", COUNTER, kInterface,                              \
    "Packets dropped that had arrived")                                                                                \
  X(ReceiveErrors, "container_network_receive_errors_total", COUNTER, kInterface, "Errors of receiving")               \
  X(SendBytes, "container_network_transmit_bytes_total", COUNTER, kInterface, "Sent, in bytes")                        \
  X(SendPackets, "container_network_transmit_packets_total", COUNTER, kInterface, "Packets sent")                      \
  X(SendDrops, "container_network_transmit_packets_dropped_total", COUNTER, kInterface,                                \
    "Packets dropped that were to be sent")                                                                            \
  X(SendErrors, "container_network_transmit_errors_total", COUNTER, kInterface, "Errors of sending")

// One value of one of them.
enum class Name : std::uint8_t {
#define X(word, name, type, labels, help) word,
  USERPOD_METRIC_TABLE(X)
#undef X
};

struct Kind {
  std::string_view name;
  v1::MetricType type;
};

constexpr auto kKinds = std::to_array<Kind>({
#define X(word, name, type, labels, help) {name, v1::type},
    USERPOD_METRIC_TABLE(X)
#undef X
});

// Adds to the metrics of one container, or of a pod as a whole.
class MetricList {
 public:
  using Labels = std::array<std::string, kLabels.size()>;
  using Metrics = google::protobuf::RepeatedPtrField<v1::Metric>;
  MetricList(Metrics* metrics, Labels labels) : metrics_(metrics), labels_(std::move(labels)) {}

  void add(Name name, const Figure& value, std::initializer_list<std::string_view> further = {}) {
    if (!value) return;
    const Kind& kind = kKinds[static_cast<std::size_t>(name)];
    v1::Metric* metric = metrics_->Add();
    metric->set_name(kind.name.data(), kind.name.size());
    metric->set_metric_type(kind.type);
    metric->mutable_label_values()->Reserve(static_cast<int>(labels_.size() + further.size()));
    for (const auto& label : labels_) metric->add_label_values(label);
    for (const auto& label : further) metric->add_label_values(label.data(), label.size());
    metric->mutable_value()->set_value(*value);
  }

 private:
  Metrics* metrics_;
  Labels labels_;
};

Figure seconds(const Figure& parts, std::uint64_t inOne) {
  return parts ? Figure(*parts / inOne) : std::nullopt;
}

Figure seconds(std::int64_t nanos) {
  return nanos > 0 ? Figure(static_cast<std::uint64_t>(nanos) / 1'000'000'000) : std::nullopt;
}

void addCpu(const stats::CpuFigures& cpu, MetricList& list) {
  constexpr std::uint64_t kNanos = 1'000'000'000;
  list.add(Name::CpuUsage, seconds(cpu.usage, kNanos), {"total"});
  list.add(Name::CpuUser, seconds(cpu.user, kNanos));
  list.add(Name::CpuSystem, seconds(cpu.system, kNanos));
  list.add(Name::CpuPeriods, cpu.periods);
  list.add(Name::CpuThrottled, cpu.throttledPeriods);
  list.add(Name::CpuThrottledTime, seconds(cpu.throttledTime, kNanos));
}

void addMemory(const stats::MemoryFigures& memory, MetricList& list) {
  list.add(Name::MemoryUsage, memory.usage);
  list.add(Name::MemoryPeak, memory.peak);
  list.add(Name::MemoryWorkingSet, memory.workingSet);
  list.add(Name::MemoryRss, memory.anonymous);
  list.add(Name::MemoryCache, memory.cache);
  list.add(Name::MemoryMappedFile, memory.mappedFile);
  list.add(Name::MemoryKernel, memory.kernel);
  list.add(Name::MemorySwap, memory.swap);
  list.add(Name::MemoryFailCount, memory.limitHits);
  // cAdvisor's scopes; the kernel's one figure is of the whole cgroup.
  for (std::string_view scope : {"container", "hierarchy"}) {
    list.add(Name::MemoryFailures, memory.pageFaults, {"pgfault", scope});
    list.add(Name::MemoryFailures, memory.majorPageFaults, {"pgmajfault", scope});
  }
  list.add(Name::OomEvents, memory.oomKills);
}

void addPressure(const std::optional<stats::Pressure>& pressure, Name some, Name full, MetricList& list) {
  constexpr std::uint64_t kMicros = 1'000'000;
  if (!pressure) return;
  list.add(some, seconds(Figure(pressure->some.total), kMicros));
  list.add(full, seconds(Figure(pressure->full.total), kMicros));
}

void addDevice(const stats::DeviceIo& io, MetricList& list) {
  const std::string major = std::to_string(io.major);
  const std::string minor = std::to_string(io.minor);
  const std::string device = major + ":" + minor;
  list.add(Name::FsReads, io.reads, {device});
  list.add(Name::FsReadBytes, io.readBytes, {device});
  list.add(Name::FsWrites, io.writes, {device});
  list.add(Name::FsWriteBytes, io.writtenBytes, {device});
  list.add(Name::BlkioUsage, io.readBytes, {device, major, minor, "Read"});
  list.add(Name::BlkioUsage, io.writtenBytes, {device, major, minor, "Write"});
}

void addCgroup(const stats::CgroupFigures& figures, MetricList& list) {
  list.add(Name::LastSeen, seconds(figures.timestamp));
  addCpu(figures.cpu, list);
  addMemory(figures.memory, list);
  addPressure(figures.cpu.pressure, Name::PressureCpuSome, Name::PressureCpuFull, list);
  addPressure(figures.memory.pressure, Name::PressureMemorySome, Name::PressureMemoryFull, list);
  addPressure(figures.io.pressure, Name::PressureIoSome, Name::PressureIoFull, list);
  if (figures.io.devices)
    for (const auto& device : *figures.io.devices) addDevice(device, list);
  if (figures.tasks) list.add(Name::ThreadsMax, figures.tasksLimit.value_or(0));
}

void addProcesses(const stats::ProcessFigures& processes, MetricList& list) {
  list.add(Name::Processes, processes.processes);
  list.add(Name::Threads, processes.threads);
  list.add(Name::FileDescriptors, processes.descriptors);
  list.add(Name::Sockets, processes.sockets);
  list.add(Name::Ulimits, processes.softFileLimit, {"max_open_files"});
}

void addFiles(const stats::ContainerFigures& figures, MetricList& list) {
  if (figures.layer) list.add(Name::FsUsage, figures.layer->bytes);
  if (!figures.filesystem) return;
  list.add(Name::FsLimit, figures.filesystem->bytes);
  list.add(Name::FsInodes, figures.filesystem->inodes);
  list.add(Name::FsInodesFree, figures.filesystem->freeInodes);
}

// 0 and less say that there is no limit.
Figure positive(std::int64_t value) {
  return value > 0 ? Figure(static_cast<std::uint64_t>(value)) : std::nullopt;
}

std::uint64_t reservation(const StringMap& unified) {
  auto found = unified.find("memory.min");
  std::uint64_t bytes = 0;
  if (found != unified.end()) std::from_chars(found->second.data(), found->second.data() + found->second.size(), bytes);
  return bytes;
}

void addLimits(const Resources& resources, MetricList& list) {
  list.add(Name::SpecCpuPeriod, positive(resources.cpuPeriod));
  list.add(Name::SpecCpuQuota, positive(resources.cpuQuota));
  list.add(Name::SpecCpuShares, positive(resources.cpuShares));
  list.add(Name::SpecMemory, positive(resources.memoryLimit).value_or(0));
  list.add(Name::SpecMemoryReservation, reservation(resources.unified));
  list.add(Name::SpecMemorySwap, positive(resources.memorySwapLimit).value_or(0));
}

void addInterface(const stats::InterfaceFigures& interface, MetricList& list) {
  const std::string& name = interface.name;
  list.add(Name::ReceiveBytes, interface.receivedBytes, {name});
  list.add(Name::ReceivePackets, interface.receivedPackets, {name});
  list.add(Name::ReceiveDrops, interface.receiveDrops, {name});
  list.add(Name::ReceiveErrors, interface.receiveErrors, {name});
  list.add(Name::SendBytes, interface.sentBytes, {name});
  list.add(Name::SendPackets, interface.sentPackets, {name});
  list.add(Name::SendDrops, interface.sendDrops, {name});
  list.add(Name::SendErrors, interface.sendErrors, {name});
}

void fillContainer(const stats::ContainerFigures& figures, const PodConfig& pod, v1::ContainerMetrics* message) {
  const ContainerRecord& container = *figures.container;
  message->set_container_id(container.id);
  MetricList list(message->mutable_metrics(),
                  {container.id, container.imageName, pod.nameSpace, pod.name, container.config.name});
  if (figures.cgroup) addCgroup(*figures.cgroup, list);
  if (figures.processes) addProcesses(*figures.processes, list);
  addFiles(figures, list);
  addLimits(container.config.resources.value_or(Resources{}), list);
  list.add(Name::StartTime, seconds(container.startedAt));
}

template <typename Further>
void addDescriptor(std::string_view name, std::string_view help, const Further& further,
                   v1::ListMetricDescriptorsResponse* response) {
  v1::MetricDescriptor* descriptor = response->add_descriptors();
  descriptor->set_name(name.data(), name.size());
  descriptor->set_help(help.data(), help.size());
  for (auto label : kLabels) descriptor->add_label_keys(label.data(), label.size());
  for (auto label : further) descriptor->add_label_keys(label.data(), label.size());
}

}  // namespace

void fillDescriptors(v1::ListMetricDescriptorsResponse* response) {
#define X(word, name, type, labels, help) addDescriptor(name, help, labels, response);
  USERPOD_METRIC_TABLE(X)
#undef X
}

void fillMetrics(const stats::PodFigures& figures, v1::PodSandboxMetrics* message) {
  const PodRecord& pod = *figures.pod;
  message->set_pod_sandbox_id(pod.id);
  // "POD" stands for the pod as a whole, as in cAdvisor's names.
  MetricList list(message->mutable_metrics(), {pod.id, "", pod.config.nameSpace, pod.config.name, "POD"});
  for (const auto& interface : figures.interfaces) addInterface(interface, list);
  for (const auto& container : figures.containers)
    if (visible(*container.container)) fillContainer(container, pod.config, message->add_container_metrics());
}

}  // namespace userpod::cri

// Metrics: the list of what there can be, and that every value fits to it.
#include <fmt/core.h>

#include <map>
#include <set>

#include "daemon/cri/metrics.hpp"
#include "tests/unit/cri_bed.hpp"

namespace userpod {
namespace {

namespace v1 = ::runtime::v1;
using tests::makePod;

// What critest asks for.
const std::set<std::string> kExpected{"container_blkio_device_usage_total",
                                      "container_cpu_cfs_periods_total",
                                      "container_cpu_cfs_throttled_periods_total",
                                      "container_cpu_cfs_throttled_seconds_total",
                                      "container_cpu_system_seconds_total",
                                      "container_cpu_usage_seconds_total",
                                      "container_cpu_user_seconds_total",
                                      "container_file_descriptors",
                                      "container_fs_inodes_free",
                                      "container_fs_inodes_total",
                                      "container_fs_limit_bytes",
                                      "container_fs_reads_bytes_total",
                                      "container_fs_reads_total",
                                      "container_fs_usage_bytes",
                                      "container_fs_writes_bytes_total",
                                      "container_fs_writes_total",
                                      "container_hugetlb_max_usage_bytes",
                                      "container_hugetlb_usage_bytes",
                                      "container_last_seen",
                                      "container_memory_cache",
                                      "container_memory_failcnt",
                                      "container_memory_failures_total",
                                      "container_memory_kernel_usage",
                                      "container_memory_mapped_file",
                                      "container_memory_max_usage_bytes",
                                      "container_memory_rss",
                                      "container_memory_swap",
                                      "container_memory_usage_bytes",
                                      "container_memory_working_set_bytes",
                                      "container_network_receive_bytes_total",
                                      "container_network_receive_errors_total",
                                      "container_network_receive_packets_dropped_total",
                                      "container_network_receive_packets_total",
                                      "container_network_transmit_bytes_total",
                                      "container_network_transmit_errors_total",
                                      "container_network_transmit_packets_dropped_total",
                                      "container_network_transmit_packets_total",
                                      "container_oom_events_total",
                                      "container_pressure_cpu_stalled_seconds_total",
                                      "container_pressure_cpu_waiting_seconds_total",
                                      "container_pressure_io_stalled_seconds_total",
                                      "container_pressure_io_waiting_seconds_total",
                                      "container_pressure_memory_stalled_seconds_total",
                                      "container_pressure_memory_waiting_seconds_total",
                                      "container_processes",
                                      "container_sockets",
                                      "container_spec_cpu_period",
                                      "container_spec_cpu_quota",
                                      "container_spec_cpu_shares",
                                      "container_spec_memory_limit_bytes",
                                      "container_spec_memory_reservation_limit_bytes",
                                      "container_spec_memory_swap_limit_bytes",
                                      "container_start_time_seconds",
                                      "container_threads",
                                      "container_threads_max",
                                      "container_ulimits_soft"};

stats::Pressure pressureOf(std::uint64_t some, std::uint64_t full) {
  stats::Pressure pressure;
  pressure.some.total = some;
  pressure.full.total = full;
  return pressure;
}

// Every figure has a value of its own.
stats::ContainerFigures everything() {
  auto record = std::make_shared<ContainerRecord>(*tests::makeContainer(std::string(64, '1')));
  record->imageName = "registry.example/app:1";
  record->startedAt = 1'600'000'000'999'000'000;
  record->config.resources = Resources{.cpuPeriod = 100'000,
                                       .cpuQuota = 20'000,
                                       .cpuShares = 512,
                                       .memoryLimit = 64,
                                       .memorySwapLimit = 65,
                                       .unified = {{"memory.min", "66"}}};
  stats::ContainerFigures figures{record, stats::CgroupFigures{}, stats::LayerFigures{5, 8192, 3},
                                  stats::ProcessFigures{2, 4, 9, 1, 1024}, stats::FilesystemFigures{1000, 200, 150}};
  auto& cgroup = *figures.cgroup;
  cgroup.timestamp = 1'700'000'000'500'000'000;
  cgroup.cpu = {
      9'900'000'000, 6'900'000'000, 3'100'000'000, 7, 40, 5, 1'500'000'000, pressureOf(11'000'000, 12'999'999)};
  auto& memory = cgroup.memory;
  memory.usage = 1000;
  memory.workingSet = 700;
  memory.anonymous = 600;
  memory.cache = 300;
  memory.mappedFile = 50;
  memory.kernel = 33;
  memory.peak = 1200;
  memory.pageFaults = 77;
  memory.majorPageFaults = 0;
  memory.limitHits = 2;
  memory.oomKills = 1;
  memory.swap = 30;
  memory.pressure = pressureOf(21'000'000, 22'000'000);
  cgroup.io.devices = std::vector<stats::DeviceIo>{{8, 0, 4096, 8192, 3, 4}, {259, 1, 1, 2, 5, 6}};
  cgroup.io.pressure = pressureOf(31'000'000, 32'000'000);
  cgroup.tasks = 6;
  cgroup.tasksLimit = 64;
  return figures;
}

stats::PodFigures podWith(std::vector<stats::ContainerFigures> containers) {
  return {makePod('a'), {}, 1, {{"eth0", 1, 2, 3, 4, 5, 6, 7, 8}, {"net1", 9}}, std::move(containers)};
}

using Descriptors = std::map<std::string, v1::MetricDescriptor>;

Descriptors descriptors() {
  v1::ListMetricDescriptorsResponse response;
  cri::fillDescriptors(&response);
  Descriptors byName;
  for (const auto& one : response.descriptors()) EXPECT_TRUE(byName.emplace(one.name(), one).second) << one.name();
  return byName;
}

// "name{further labels} value", of the metrics of one container or pod; each is checked against its descriptor.
template <typename Metrics>
std::set<std::string> valuesOf(const Metrics& metrics) {
  std::set<std::string> values;
  auto known = descriptors();
  for (const v1::Metric& metric : metrics) {
    EXPECT_TRUE(known.contains(metric.name())) << metric.name();
    EXPECT_EQ(metric.label_values_size(), known[metric.name()].label_keys_size()) << metric.name();
    EXPECT_EQ(metric.timestamp(), 0);
    EXPECT_TRUE(metric.has_value());
    std::string further;
    for (int i = 5; i < metric.label_values_size(); ++i) further += (i > 5 ? "," : "") + metric.label_values(i);
    bool total = metric.name().ends_with("_total") && metric.name() != "container_fs_inodes_total";
    EXPECT_EQ(metric.metric_type() == v1::COUNTER, total || metric.name() == "container_memory_failcnt")
        << metric.name();
    EXPECT_TRUE(
        values.insert(fmt::format("{}{{{}}} {}", metric.name().substr(10), further, metric.value().value())).second);
  }
  return values;
}

TEST(CriMetrics, DescriptorsAreThoseThatAreExpectedEachWithHelpAndLabels) {
  std::set<std::string> names;
  for (const auto& [name, descriptor] : descriptors()) {
    names.insert(name);
    EXPECT_FALSE(descriptor.help().empty()) << name;
    ASSERT_GE(descriptor.label_keys_size(), 5) << name;
    EXPECT_EQ(std::vector<std::string>(descriptor.label_keys().begin(), descriptor.label_keys().begin() + 5),
              (std::vector<std::string>{"id", "image", "namespace", "pod", "container"}));
  }
  EXPECT_EQ(names, kExpected);
  v1::ListMetricDescriptorsResponse first;
  v1::ListMetricDescriptorsResponse second;
  cri::fillDescriptors(&first);
  cri::fillDescriptors(&second);
  EXPECT_EQ(first.SerializeAsString(), second.SerializeAsString());
}

TEST(CriMetrics, EveryFigureOfAContainerHasItsMetric) {
  v1::PodSandboxMetrics message;
  cri::fillMetrics(podWith({everything()}), &message);
  ASSERT_EQ(message.container_metrics_size(), 1);
  EXPECT_EQ(message.container_metrics(0).container_id(), std::string(64, '1'));
  EXPECT_EQ(valuesOf(message.container_metrics(0).metrics()),
            (std::set<std::string>{"last_seen{} 1700000000",
                                   "start_time_seconds{} 1600000000",
                                   "cpu_usage_seconds_total{total} 9",
                                   "cpu_user_seconds_total{} 6",
                                   "cpu_system_seconds_total{} 3",
                                   "cpu_cfs_periods_total{} 40",
                                   "cpu_cfs_throttled_periods_total{} 5",
                                   "cpu_cfs_throttled_seconds_total{} 1",
                                   "memory_usage_bytes{} 1000",
                                   "memory_max_usage_bytes{} 1200",
                                   "memory_working_set_bytes{} 700",
                                   "memory_rss{} 600",
                                   "memory_cache{} 300",
                                   "memory_mapped_file{} 50",
                                   "memory_kernel_usage{} 33",
                                   "memory_swap{} 30",
                                   "memory_failcnt{} 2",
                                   "memory_failures_total{pgfault,container} 77",
                                   "memory_failures_total{pgfault,hierarchy} 77",
                                   "memory_failures_total{pgmajfault,container} 0",
                                   "memory_failures_total{pgmajfault,hierarchy} 0",
                                   "oom_events_total{} 1",
                                   "fs_usage_bytes{} 8192",
                                   "fs_limit_bytes{} 1000",
                                   "fs_inodes_total{} 200",
                                   "fs_inodes_free{} 150",
                                   "fs_reads_total{8:0} 3",
                                   "fs_reads_bytes_total{8:0} 4096",
                                   "fs_writes_total{8:0} 4",
                                   "fs_writes_bytes_total{8:0} 8192",
                                   "fs_reads_total{259:1} 5",
                                   "fs_reads_bytes_total{259:1} 1",
                                   "fs_writes_total{259:1} 6",
                                   "fs_writes_bytes_total{259:1} 2",
                                   "blkio_device_usage_total{8:0,8,0,Read} 4096",
                                   "blkio_device_usage_total{8:0,8,0,Write} 8192",
                                   "blkio_device_usage_total{259:1,259,1,Read} 1",
                                   "blkio_device_usage_total{259:1,259,1,Write} 2",
                                   "processes{} 2",
                                   "threads{} 4",
                                   "threads_max{} 64",
                                   "file_descriptors{} 9",
                                   "sockets{} 1",
                                   "ulimits_soft{max_open_files} 1024",
                                   "spec_cpu_period{} 100000",
                                   "spec_cpu_quota{} 20000",
                                   "spec_cpu_shares{} 512",
                                   "spec_memory_limit_bytes{} 64",
                                   "spec_memory_reservation_limit_bytes{} 66",
                                   "spec_memory_swap_limit_bytes{} 65",
                                   "pressure_cpu_waiting_seconds_total{} 11",
                                   "pressure_cpu_stalled_seconds_total{} 12",
                                   "pressure_memory_waiting_seconds_total{} 21",
                                   "pressure_memory_stalled_seconds_total{} 22",
                                   "pressure_io_waiting_seconds_total{} 31",
                                   "pressure_io_stalled_seconds_total{} 32"}));
  for (const auto& metric : message.container_metrics(0).metrics())
    EXPECT_EQ(std::vector<std::string>(metric.label_values().begin(), metric.label_values().begin() + 5),
              (std::vector<std::string>{std::string(64, '1'), "registry.example/app:1", "default", "pod", "main"}));
}

TEST(CriMetrics, APodsNetworkIsThePodsAsAWhole) {
  v1::PodSandboxMetrics message;
  cri::fillMetrics(podWith({}), &message);
  EXPECT_EQ(message.pod_sandbox_id(), std::string(64, 'a'));
  EXPECT_EQ(message.container_metrics_size(), 0);
  EXPECT_EQ(valuesOf(message.metrics()),
            (std::set<std::string>{
                "network_receive_bytes_total{eth0} 1", "network_receive_packets_total{eth0} 2",
                "network_receive_errors_total{eth0} 3", "network_receive_packets_dropped_total{eth0} 4",
                "network_transmit_bytes_total{eth0} 5", "network_transmit_packets_total{eth0} 6",
                "network_transmit_errors_total{eth0} 7", "network_transmit_packets_dropped_total{eth0} 8",
                "network_receive_bytes_total{net1} 9", "network_receive_packets_total{net1} 0",
                "network_receive_errors_total{net1} 0", "network_receive_packets_dropped_total{net1} 0",
                "network_transmit_bytes_total{net1} 0", "network_transmit_packets_total{net1} 0",
                "network_transmit_errors_total{net1} 0", "network_transmit_packets_dropped_total{net1} 0"}));
  for (const auto& metric : message.metrics())
    EXPECT_EQ(std::vector<std::string>(metric.label_values().begin(), metric.label_values().begin() + 5),
              (std::vector<std::string>{std::string(64, 'a'), "", "default", "pod", "POD"}));
}

TEST(CriMetrics, WhatIsNotAvailableIsLeftOut) {
  auto record = std::make_shared<ContainerRecord>(*tests::makeContainer(std::string(64, '1')));
  stats::ContainerFigures figures{record, stats::CgroupFigures{}, {}, {}};
  figures.cgroup->timestamp = 2'000'000'000;
  figures.cgroup->cpu.usage = 500'000'000;
  v1::PodSandboxMetrics message;
  cri::fillMetrics(podWith({figures}), &message);
  EXPECT_EQ(valuesOf(message.container_metrics(0).metrics()),
            (std::set<std::string>{"last_seen{} 2", "cpu_usage_seconds_total{total} 0", "spec_memory_limit_bytes{} 0",
                                   "spec_memory_reservation_limit_bytes{} 0", "spec_memory_swap_limit_bytes{} 0"}));
}

TEST(CriMetrics, ContainersOfTheDesktopHaveNone) {
  auto record = std::make_shared<ContainerRecord>(*tests::makeContainer(std::string(64, '1'), Origin::Desktop));
  v1::PodSandboxMetrics message;
  cri::fillMetrics(podWith({stats::ContainerFigures{record, {}, {}, {}}}), &message);
  EXPECT_EQ(message.container_metrics_size(), 0);
}

class CriMetricCalls : public tests::CriServer {};

TEST_F(CriMetricCalls, ListAndStreamHaveTheReadyPodsOfTheCri) {
  auto ended = std::make_shared<PodRecord>(*makePod('c'));
  ended->state = PodRecord::State::NotReady;
  core_.set({makePod('a'), makePod('b', Origin::Desktop), ended}, {});
  core_.podFiguresOf = [](auto pod) {
    auto figures = podWith({everything()});
    figures.pod = pod;
    return figures;
  };
  grpc::ClientContext context;
  v1::ListPodSandboxMetricsResponse list;
  ASSERT_TRUE(runtime_->ListPodSandboxMetrics(&context, {}, &list).ok());
  ASSERT_EQ(list.pod_metrics_size(), 1);
  EXPECT_EQ(list.pod_metrics(0).pod_sandbox_id(), std::string(64, 'a'));
  EXPECT_EQ(core_.podDetail, stats::Detail::All);
  grpc::ClientContext second;
  auto stream = runtime_->StreamPodSandboxMetrics(&second, {});
  v1::StreamPodSandboxMetricsResponse chunk;
  ASSERT_TRUE(stream->Read(&chunk));
  ASSERT_EQ(chunk.pod_sandbox_metrics_size(), 1);
  EXPECT_EQ(chunk.pod_sandbox_metrics(0).SerializeAsString(), list.pod_metrics(0).SerializeAsString());
  EXPECT_FALSE(stream->Read(&chunk));
  EXPECT_TRUE(stream->Finish().ok());
  grpc::ClientContext third;
  v1::ListMetricDescriptorsResponse known;
  ASSERT_TRUE(runtime_->ListMetricDescriptors(&third, {}, &known).ok());
  EXPECT_EQ(known.descriptors_size(), static_cast<int>(kExpected.size()));
}

TEST_F(CriMetricCalls, TwoThousandPodsAreStreamedAndTooManyForAList) {
  std::vector<std::shared_ptr<const PodRecord>> pods;
  for (int i = 0; i < 2000; ++i) {
    auto pod = std::make_shared<PodRecord>(*makePod('a'));
    pod->id = fmt::format("{:064x}", i);
    pods.push_back(std::move(pod));
  }
  core_.set(pods, {});
  core_.podFiguresOf = [](auto pod) {
    auto figures = podWith({everything()});
    figures.pod = pod;
    return figures;
  };
  grpc::ClientContext context;
  v1::ListPodSandboxMetricsResponse list;
  auto status = runtime_->ListPodSandboxMetrics(&context, {}, &list);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED);
  EXPECT_NE(status.error_message().find("call StreamPodSandboxMetrics"), std::string::npos) << status.error_message();
  grpc::ClientContext second;
  auto stream = runtime_->StreamPodSandboxMetrics(&second, {});
  v1::StreamPodSandboxMetricsResponse chunk;
  std::set<std::string> ids;
  while (stream->Read(&chunk)) {
    EXPECT_LE(chunk.ByteSizeLong(), 4 * tests::kMebibyte);
    EXPECT_GT(chunk.pod_sandbox_metrics_size(), 0);
    for (const auto& one : chunk.pod_sandbox_metrics()) ids.insert(one.pod_sandbox_id());
  }
  EXPECT_TRUE(stream->Finish().ok());
  EXPECT_EQ(ids.size(), 2000U);
}

}  // namespace
}  // namespace userpod

// ListMetricDescriptors, ListPodSandboxMetrics and StreamPodSandboxMetrics.
#include <map>
#include <set>

#include "tests/conformance/edits.hpp"

namespace userpod::conformance {
namespace {

using Names = std::set<std::string>;
using Metrics = google::protobuf::RepeatedPtrField<v1::Metric>;

std::map<std::string, v1::MetricDescriptor> descriptors() {
  std::map<std::string, v1::MetricDescriptor> known;
  auto answer = call(v1::ListMetricDescriptorsRequest());
  for (const auto& one : answer.descriptors()) EXPECT_TRUE(known.emplace(one.name(), one).second) << one.name();
  return known;
}

v1::PodSandboxMetrics metricsOf(const std::string& pod) {
  auto answer = call(v1::ListPodSandboxMetricsRequest());
  for (const auto& one : answer.pod_metrics())
    if (one.pod_sandbox_id() == pod) return one;
  return {};
}

const Metrics& only(const v1::PodSandboxMetrics& pod, const std::string& container) {
  for (const auto& one : pod.container_metrics())
    if (one.container_id() == container) return one.metrics();
  throw std::runtime_error("no metrics of container " + container);
}

Names namesOf(const Metrics& metrics) {
  Names names;
  for (const auto& metric : metrics) names.insert(metric.name());
  return names;
}

// The value with these labels after the common five.
std::uint64_t value(const Metrics& metrics, const std::string& name, const std::vector<std::string>& labels = {}) {
  for (const auto& metric : metrics)
    if (metric.name() == name &&
        std::vector<std::string>(metric.label_values().begin() + 5, metric.label_values().end()) == labels)
      return metric.value().value();
  throw std::runtime_error("no metric " + name);
}

void limits(Config& config) {
  auto& resources = *config.mutable_linux()->mutable_resources();
  resources.set_cpu_period(100'000);
  resources.set_cpu_quota(20'000);
  resources.set_cpu_shares(1024);
  resources.set_memory_limit_in_bytes(64 << 20);
  resources.set_memory_swap_limit_in_bytes(64 << 20);
}

}  // namespace

TEST(Metrics, DescriptorsAreTheSameEachTimeAndHaveHelpAndLabels) {
  PROMISE("1.1.31 descriptors");
  auto known = descriptors();
  for (const auto& [name, descriptor] : known) {
    EXPECT_NE(descriptor.help(), "") << name;
    EXPECT_GT(descriptor.label_keys_size(), 0) << name;
  }
  for (const auto* name : {"container_cpu_usage_seconds_total", "container_memory_working_set_bytes",
                           "container_network_receive_bytes_total", "container_fs_usage_bytes",
                           "container_pressure_io_waiting_seconds_total", "container_ulimits_soft",
                           "container_spec_memory_limit_bytes", "container_oom_events_total"})
    EXPECT_EQ(known.count(name), 1U) << name;
  EXPECT_EQ(call(v1::ListMetricDescriptorsRequest()).SerializeAsString(),
            call(v1::ListMetricDescriptorsRequest()).SerializeAsString());
}

TEST(Metrics, FitToTheirDescriptors) {
  PROMISE("1.1.32 labels");
  auto known = descriptors();
  Pod pod;
  Container container(pod, limits);
  container.up();
  auto metrics = metricsOf(pod.id());
  auto check = [&](const Metrics& list) {
    EXPECT_GT(list.size(), 0);
    for (const auto& metric : list) {
      EXPECT_EQ(known.count(metric.name()), 1U) << metric.name();
      EXPECT_EQ(metric.label_values_size(), known[metric.name()].label_keys_size()) << metric.name();
      EXPECT_EQ(metric.timestamp(), 0) << metric.name();
      EXPECT_TRUE(metric.has_value()) << metric.name();
    }
  };
  check(metrics.metrics());
  check(only(metrics, container.id()));
}

TEST(Metrics, OfAPodAreItsNetworksAndOfAContainerAllElse) {
  PROMISE("1.1.32 metrics");
  Pod pod;
  Container container(pod, limits);
  container.up();
  auto metrics = metricsOf(pod.id());
  for (const auto& metric : metrics.metrics()) EXPECT_EQ(metric.name().rfind("container_network_", 0), 0U);
  EXPECT_EQ(namesOf(metrics.metrics()).size(), 8U);
  auto names = namesOf(only(metrics, container.id()));
  // What needs no controller.
  for (const auto* name :
       {"container_last_seen", "container_start_time_seconds", "container_cpu_usage_seconds_total",
        "container_cpu_user_seconds_total", "container_cpu_system_seconds_total", "container_fs_limit_bytes",
        "container_fs_inodes_total", "container_fs_inodes_free", "container_processes", "container_threads",
        "container_file_descriptors", "container_sockets", "container_ulimits_soft"})
    EXPECT_EQ(names.count(name), 1U) << name;
  auto memory = hasController(container, "memory") ? 1U : 0U;
  for (const auto* name : {"container_memory_usage_bytes", "container_memory_working_set_bytes", "container_memory_rss",
                           "container_memory_cache", "container_memory_failures_total", "container_memory_failcnt",
                           "container_oom_events_total"})
    EXPECT_EQ(names.count(name), memory) << name;
  EXPECT_EQ(names.count("container_threads_max"), hasController(container, "pids") ? 1U : 0U);
  EXPECT_EQ(names.count("container_network_receive_bytes_total"), 0U);
}

TEST(Metrics, SayWhatIsSo) {
  PROMISE("1.1.32 metrics");
  Pod pod;
  Container container(pod, shell("nc -l -p 99 & sleep 1000 & echo up; wait"), limits);
  container.up();
  auto metrics = metricsOf(pod.id());
  const auto& list = only(metrics, container.id());
  EXPECT_EQ(value(list, "container_processes"), 3U);
  EXPECT_EQ(value(list, "container_threads"), 3U);
  waitUntil(
      [&] {
        auto later = metricsOf(pod.id());
        return value(only(later, container.id()), "container_sockets") == 1;
      },
      "a socket that listens");
  EXPECT_GE(value(list, "container_file_descriptors"), 3U);
  EXPECT_EQ(value(list, "container_ulimits_soft", {"max_open_files"}), std::stoull(container.text("ulimit -Sn")));
  EXPECT_EQ(value(list, "container_start_time_seconds"),
            static_cast<std::uint64_t>(container.status().started_at() / 1'000'000'000));
  auto seen = static_cast<std::int64_t>(value(list, "container_last_seen"));
  auto now = std::chrono::system_clock::now().time_since_epoch() / std::chrono::seconds(1);
  EXPECT_NEAR(static_cast<double>(seen), static_cast<double>(now), 60);
  auto shown = container.status().resources().linux();
  EXPECT_EQ(value(list, "container_spec_memory_limit_bytes"),
            static_cast<std::uint64_t>(shown.memory_limit_in_bytes()));
  for (const auto& metric : list) {
    EXPECT_EQ(metric.label_values(0), container.id());
    EXPECT_EQ(metric.label_values(2), pod.config().metadata().namespace_());
    EXPECT_EQ(metric.label_values(3), pod.config().metadata().name());
    EXPECT_EQ(metric.label_values(4), container.config().metadata().name());
  }
}

TEST(Metrics, OfThePodsNetworkAreThoseOfItsInterface) {
  PROMISE("1.1.32 metrics");
  Pod pod, onTheNodes([](auto& c) { namespacesOf(c)->set_network(v1::NODE); });
  Container container(pod), ofTheNode(onTheNodes);
  container.up();
  ofTheNode.up();
  auto before = value(metricsOf(pod.id()).metrics(), "container_network_transmit_packets_total", {"eth0"});
  // Nobody listens there: what counts is what the pod sends.
  Pod other;
  (void)container.exec("nc -w 2 " + other.status().network().ip() + " 9");
  EXPECT_GT(value(metricsOf(pod.id()).metrics(), "container_network_transmit_packets_total", {"eth0"}), before);
  EXPECT_EQ(metricsOf(onTheNodes.id()).metrics_size(), 0);
  EXPECT_GT(metricsOf(onTheNodes.id()).container_metrics_size(), 0);
}

TEST(Metrics, AreOfReadyPodsAndOfContainersThatRun) {
  PROMISE("1.1.32 running");
  Pod pod, stopped;
  auto created = Container::created(pod);
  Container running(pod), ended(pod, shell("exit 0"));
  ended.ended();
  stopped.stop();
  auto metrics = metricsOf(pod.id());
  ASSERT_EQ(metrics.container_metrics_size(), 1);
  EXPECT_EQ(metrics.container_metrics(0).container_id(), running.id());
  EXPECT_EQ(metricsOf(stopped.id()).pod_sandbox_id(), "");
}

TEST(Metrics, StreamHasWhatTheListHas) {
  PROMISE("1.1.33 stream");
  Pod one, two;
  Container container(one, limits);
  container.up();
  std::map<std::string, v1::PodSandboxMetrics> streamed;
  for (const auto& chunk : call(v1::StreamPodSandboxMetricsRequest())) {
    EXPECT_GT(chunk.pod_sandbox_metrics_size(), 0) << "an empty part of a stream";
    for (const auto& pod : chunk.pod_sandbox_metrics())
      EXPECT_TRUE(streamed.emplace(pod.pod_sandbox_id(), pod).second) << "twice: " << pod.pod_sandbox_id();
  }
  ASSERT_EQ(streamed.count(one.id()), 1U);
  ASSERT_EQ(streamed.count(two.id()), 1U);
  EXPECT_EQ(namesOf(only(streamed[one.id()], container.id())), namesOf(only(metricsOf(one.id()), container.id())));
  EXPECT_EQ(namesOf(streamed[two.id()].metrics()), namesOf(metricsOf(two.id()).metrics()));
}

}  // namespace userpod::conformance

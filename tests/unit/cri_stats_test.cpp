// Figures as CRI clients get them: who is selected, what is absent and what is zero.
#include <fmt/core.h>

#include <algorithm>
#include <chrono>

#include "tests/unit/cri_bed.hpp"

namespace userpod {
namespace {

namespace v1 = ::runtime::v1;
using tests::makePod;

std::string idOf(char digit) {
  return std::string(64, digit);
}

std::shared_ptr<ContainerRecord> container(char digit, char pod, ContainerRecord::State state) {
  auto record = std::make_shared<ContainerRecord>(*tests::makeContainer(idOf(digit)));
  record->podId = idOf(pod);
  record->state = state;
  return record;
}

stats::Pressure pressure(std::uint64_t some, std::uint64_t full) {
  stats::Pressure pressure;
  pressure.some = {some, 1.5, 2.5, 3.5};
  pressure.full = {full, 0.25, 0, 0};
  return pressure;
}

stats::CgroupFigures allFigures() {
  stats::CgroupFigures figures;
  figures.timestamp = 1700;
  figures.cpu = {9'000'000'000, 6'000'000'000, 3'000'000'000, 250'000'000, 40, 5, 1'500'000'000, pressure(11, 12)};
  auto& memory = figures.memory;
  memory.usage = 1000;
  memory.workingSet = 700;
  memory.anonymous = 600;
  memory.cache = 300;
  memory.mappedFile = 50;
  memory.limit = 4096;
  memory.available = 3396;
  memory.peak = 1200;
  memory.pageFaults = 77;
  memory.majorPageFaults = 0;
  memory.limitHits = 2;
  memory.oomKills = 1;
  memory.swap = 30;
  memory.swapLimit = 100;
  memory.pressure = pressure(21, 22);
  figures.io.devices = std::vector<stats::DeviceIo>{{8, 0, 4096, 8192, 3, 4}};
  figures.io.pressure = pressure(31, 32);
  figures.tasks = 6;
  figures.tasksLimit = 64;
  return figures;
}

class CriStats : public tests::CriServer {
 protected:
  CriStats() {
    core_.set({makePod('a'), makePod('b')}, {container('1', 'a', ContainerRecord::State::Running),
                                             container('2', 'a', ContainerRecord::State::Exited),
                                             container('3', 'b', ContainerRecord::State::Running)});
    core_.containerFiguresOf = [](auto record) {
      bool runs = record->state == ContainerRecord::State::Running;
      stats::ContainerFigures figures{std::move(record), {}, stats::LayerFigures{5, 8192, 3}, {}};
      if (runs) figures.cgroup = allFigures();
      return figures;
    };
    core_.podFiguresOf = [this](auto pod) {
      stats::PodFigures figures{pod, allFigures(), 1800, {{"eth0", 1, 2, 0, 4, 5, 6, 7, 8}, {"net1", 9}}, {}};
      for (const auto& one : core_.snapshot()->containers)
        if (one->podId == pod->id && one->state == ContainerRecord::State::Running)
          figures.containers.push_back(core_.containerFiguresOf(one));
      return figures;
    };
  }

  grpc::Status containerStats(const std::string& id) {
    grpc::ClientContext context;
    v1::ContainerStatsRequest request;
    request.set_container_id(id);
    stats_.Clear();
    return runtime_->ContainerStats(&context, request, &stats_);
  }
  std::string listed(const v1::ContainerStatsFilter* filter) {
    grpc::ClientContext context;
    v1::ListContainerStatsRequest request;
    if (filter != nullptr) *request.mutable_filter() = *filter;
    v1::ListContainerStatsResponse response;
    EXPECT_TRUE(runtime_->ListContainerStats(&context, request, &response).ok());
    std::string ids;
    for (const auto& one : response.stats()) ids += one.attributes().id().front();
    return ids;
  }
  std::string listedPods(const v1::PodSandboxStatsFilter& filter) {
    grpc::ClientContext context;
    v1::ListPodSandboxStatsRequest request;
    *request.mutable_filter() = filter;
    v1::ListPodSandboxStatsResponse response;
    EXPECT_TRUE(runtime_->ListPodSandboxStats(&context, request, &response).ok());
    std::string ids;
    for (const auto& one : response.stats()) ids += one.attributes().id().front();
    return ids;
  }

  v1::ContainerStatsResponse stats_;
};

TEST_F(CriStats, AContainersFiguresAreAllThere) {
  ASSERT_TRUE(containerStats("111").ok());
  const v1::ContainerStats& stats = stats_.stats();
  EXPECT_EQ(stats.attributes().id(), idOf('1'));
  EXPECT_EQ(stats.attributes().metadata().name(), "main");
  EXPECT_EQ(stats.attributes().labels_size(), 5);
  EXPECT_EQ(stats.attributes().annotations_size(), 5);
  EXPECT_EQ(stats.cpu().timestamp(), 1700);
  EXPECT_EQ(stats.cpu().usage_core_nano_seconds().value(), 9'000'000'000U);
  EXPECT_EQ(stats.cpu().usage_nano_cores().value(), 250'000'000U);
  EXPECT_EQ(stats.cpu().psi().some().total(), 11U);
  EXPECT_EQ(stats.cpu().psi().full().total(), 12U);
  EXPECT_DOUBLE_EQ(stats.cpu().psi().some().avg10(), 1.5);
  EXPECT_DOUBLE_EQ(stats.cpu().psi().some().avg60(), 2.5);
  EXPECT_DOUBLE_EQ(stats.cpu().psi().some().avg300(), 3.5);
  EXPECT_EQ(stats.memory().timestamp(), 1700);
  EXPECT_EQ(stats.memory().usage_bytes().value(), 1000U);
  EXPECT_EQ(stats.memory().working_set_bytes().value(), 700U);
  EXPECT_EQ(stats.memory().available_bytes().value(), 3396U);
  EXPECT_EQ(stats.memory().rss_bytes().value(), 600U);
  EXPECT_EQ(stats.memory().page_faults().value(), 77U);
  EXPECT_EQ(stats.memory().psi().full().total(), 22U);
  EXPECT_EQ(stats.swap().timestamp(), 1700);
  EXPECT_EQ(stats.swap().swap_usage_bytes().value(), 30U);
  EXPECT_EQ(stats.swap().swap_available_bytes().value(), 70U);
  EXPECT_EQ(stats.io().timestamp(), 1700);
  EXPECT_EQ(stats.io().psi().some().total(), 31U);
  EXPECT_EQ(stats.writable_layer().timestamp(), 5);
  EXPECT_EQ(stats.writable_layer().fs_id().mountpoint(), "/data/containers");
  EXPECT_EQ(stats.writable_layer().used_bytes().value(), 8192U);
  EXPECT_EQ(stats.writable_layer().inodes_used().value(), 3U);
}

TEST_F(CriStats, AZeroIsSetAndWhatIsNotAvailableIsAbsent) {
  ASSERT_TRUE(containerStats("111").ok());
  ASSERT_TRUE(stats_.stats().memory().has_major_page_faults());
  EXPECT_EQ(stats_.stats().memory().major_page_faults().value(), 0U);
  // A host without controllers, pressure and swap, and a layer that no scan has seen yet.
  core_.containerFiguresOf = [](auto record) {
    stats::ContainerFigures figures{std::move(record), stats::CgroupFigures{}, {}, {}};
    figures.cgroup->timestamp = 5;
    figures.cgroup->cpu.usage = 0;
    return figures;
  };
  ASSERT_TRUE(containerStats("111").ok());
  const v1::ContainerStats& stats = stats_.stats();
  EXPECT_EQ(stats.cpu().timestamp(), 5);
  EXPECT_EQ(stats.memory().timestamp(), 5);
  EXPECT_TRUE(stats.cpu().has_usage_core_nano_seconds());
  EXPECT_FALSE(stats.cpu().has_usage_nano_cores());
  EXPECT_FALSE(stats.cpu().has_psi());
  EXPECT_FALSE(stats.memory().has_working_set_bytes());
  EXPECT_FALSE(stats.memory().has_usage_bytes());
  EXPECT_FALSE(stats.memory().has_available_bytes());
  EXPECT_FALSE(stats.memory().has_rss_bytes());
  EXPECT_FALSE(stats.memory().has_page_faults());
  EXPECT_FALSE(stats.memory().has_major_page_faults());
  EXPECT_FALSE(stats.memory().has_psi());
  EXPECT_FALSE(stats.has_swap());
  EXPECT_FALSE(stats.has_io());
  EXPECT_FALSE(stats.has_writable_layer());
}

TEST_F(CriStats, MoreSwapThanALaterLimitLeavesNothing) {
  core_.containerFiguresOf = [](auto record) {
    stats::ContainerFigures figures{std::move(record), allFigures(), {}, {}};
    figures.cgroup->memory.swap = 200;
    return figures;
  };
  ASSERT_TRUE(containerStats("111").ok());
  ASSERT_TRUE(stats_.stats().swap().has_swap_available_bytes());
  EXPECT_EQ(stats_.stats().swap().swap_available_bytes().value(), 0U);
}

TEST_F(CriStats, AContainerThatHasEndedHasItsLayerOnly) {
  ASSERT_TRUE(containerStats("222").ok());
  EXPECT_EQ(stats_.stats().attributes().id(), idOf('2'));
  EXPECT_FALSE(stats_.stats().has_cpu());
  EXPECT_FALSE(stats_.stats().has_memory());
  EXPECT_TRUE(stats_.stats().has_writable_layer());
}

TEST_F(CriStats, CodesOfUnknownEmptyAndAmbiguousIds) {
  auto desktop = container('4', 'a', ContainerRecord::State::Running);
  desktop->origin = Origin::Desktop;
  auto twin = container('1', 'a', ContainerRecord::State::Running);
  twin->id[63] = '2';
  core_.set({makePod('a'), makePod('d', Origin::Desktop)},
            {container('1', 'a', ContainerRecord::State::Running), twin, desktop});
  EXPECT_EQ(containerStats("9").error_code(), grpc::StatusCode::NOT_FOUND);
  EXPECT_EQ(containerStats("4").error_code(), grpc::StatusCode::NOT_FOUND);
  EXPECT_EQ(containerStats("").error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_EQ(containerStats("1").error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_EQ(listed(nullptr), "11");
  v1::PodSandboxStatsRequest request;
  v1::PodSandboxStatsResponse response;
  auto podStats = [&](const std::string& id) {
    grpc::ClientContext context;
    request.set_pod_sandbox_id(id);
    return runtime_->PodSandboxStats(&context, request, &response).error_code();
  };
  EXPECT_EQ(podStats("a"), grpc::StatusCode::OK);
  EXPECT_EQ(podStats("d"), grpc::StatusCode::NOT_FOUND);
  EXPECT_EQ(podStats("9"), grpc::StatusCode::NOT_FOUND);
  EXPECT_EQ(podStats(""), grpc::StatusCode::INVALID_ARGUMENT);
}

TEST_F(CriStats, ContainersAreSelectedByAllConditions) {
  auto labelled = container('5', 'b', ContainerRecord::State::Running);
  labelled->config.labels["app"] = "web";
  auto making = container('6', 'b', ContainerRecord::State::Creating);
  core_.set({makePod('a'), makePod('b')},
            {container('1', 'a', ContainerRecord::State::Running), container('2', 'a', ContainerRecord::State::Exited),
             container('3', 'b', ContainerRecord::State::Running), labelled, making,
             container('7', 'b', ContainerRecord::State::Created)});
  EXPECT_EQ(listed(nullptr), "135");
  v1::ContainerStatsFilter filter;
  EXPECT_EQ(listed(&filter), "135");
  filter.set_pod_sandbox_id("bb");
  EXPECT_EQ(listed(&filter), "35");
  (*filter.mutable_label_selector())["app"] = "web";
  EXPECT_EQ(listed(&filter), "5");
  filter.set_id("3");
  EXPECT_EQ(listed(&filter), "");
  filter.Clear();
  filter.set_id("22");
  EXPECT_EQ(listed(&filter), "2");
  filter.set_id("6");
  EXPECT_EQ(listed(&filter), "");
  filter.set_id("77");
  EXPECT_EQ(listed(&filter), "7");
  filter.set_id("no-such");
  EXPECT_EQ(listed(&filter), "");
}

TEST_F(CriStats, PodsAreSelectedByAllConditions) {
  auto ended = std::make_shared<PodRecord>(*makePod('c'));
  ended->state = PodRecord::State::NotReady;
  auto labelled = std::make_shared<PodRecord>(*makePod('d'));
  labelled->config.labels["app"] = "web";
  core_.set({makePod('a'), makePod('b', Origin::Desktop), ended, labelled}, {});
  v1::PodSandboxStatsFilter filter;
  EXPECT_EQ(listedPods(filter), "ad");
  (*filter.mutable_label_selector())["app"] = "web";
  EXPECT_EQ(listedPods(filter), "d");
  filter.set_id("a");
  EXPECT_EQ(listedPods(filter), "");
  filter.Clear();
  filter.set_id("cc");
  EXPECT_EQ(listedPods(filter), "c");
  filter.set_id("bb");
  EXPECT_EQ(listedPods(filter), "");
}

TEST_F(CriStats, APodHasItsOwnFiguresAndThoseOfItsContainers) {
  grpc::ClientContext context;
  v1::PodSandboxStatsRequest request;
  request.set_pod_sandbox_id("aaa");
  v1::PodSandboxStatsResponse response;
  ASSERT_TRUE(runtime_->PodSandboxStats(&context, request, &response).ok());
  EXPECT_EQ(response.stats().attributes().metadata().namespace_(), "default");
  EXPECT_EQ(response.stats().attributes().metadata().uid(), "u");
  const v1::LinuxPodSandboxStats& linux = response.stats().linux();
  EXPECT_EQ(linux.cpu().usage_core_nano_seconds().value(), 9'000'000'000U);
  EXPECT_EQ(linux.memory().working_set_bytes().value(), 700U);
  EXPECT_EQ(linux.io().psi().full().total(), 32U);
  EXPECT_EQ(linux.process().timestamp(), 1700);
  EXPECT_EQ(linux.process().process_count().value(), 6U);
  EXPECT_EQ(linux.network().timestamp(), 1800);
  EXPECT_EQ(linux.network().default_interface().name(), "eth0");
  EXPECT_EQ(linux.network().default_interface().rx_bytes().value(), 1U);
  EXPECT_TRUE(linux.network().default_interface().has_rx_errors());
  EXPECT_EQ(linux.network().default_interface().rx_errors().value(), 0U);
  EXPECT_EQ(linux.network().default_interface().tx_bytes().value(), 5U);
  EXPECT_EQ(linux.network().default_interface().tx_errors().value(), 7U);
  ASSERT_EQ(linux.network().interfaces_size(), 1);
  EXPECT_EQ(linux.network().interfaces(0).name(), "net1");
  ASSERT_EQ(linux.containers_size(), 1);
  EXPECT_EQ(linux.containers(0).attributes().id(), idOf('1'));
  EXPECT_EQ(linux.containers(0).writable_layer().fs_id().mountpoint(), "/data/containers");
}

TEST_F(CriStats, APodOnTheNodesNetworkHasNone) {
  core_.podFiguresOf = [](auto pod) { return stats::PodFigures{std::move(pod), allFigures(), 0, {}, {}}; };
  grpc::ClientContext context;
  v1::PodSandboxStatsRequest request;
  request.set_pod_sandbox_id("aaa");
  v1::PodSandboxStatsResponse response;
  ASSERT_TRUE(runtime_->PodSandboxStats(&context, request, &response).ok());
  EXPECT_FALSE(response.stats().linux().has_network());
  EXPECT_TRUE(response.stats().linux().has_cpu());
}

TEST_F(CriStats, OfAThousandContainers) {
  std::vector<std::shared_ptr<const ContainerRecord>> many;
  for (int i = 0; i < 1000; ++i) {
    auto one = container('0', 'a', ContainerRecord::State::Running);
    one->id = fmt::format("{:064x}", i);
    many.push_back(one);
  }
  core_.set({makePod('a')}, many);
  std::vector<double> times;
  for (int round = 0; round < 30; ++round) {
    grpc::ClientContext context;
    v1::ListContainerStatsResponse response;
    auto begin = std::chrono::steady_clock::now();
    ASSERT_TRUE(runtime_->ListContainerStats(&context, {}, &response).ok());
    times.push_back(std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - begin).count());
    ASSERT_EQ(response.stats_size(), 1000);
  }
  std::sort(times.begin(), times.end());
  RecordProperty("p50_ms", fmt::format("{:.2f}", times[times.size() / 2]));
  fmt::print("ListContainerStats of 1000, client included: p50 {:.2f} ms\n", times[times.size() / 2]);
}

TEST_F(CriStats, AListThatNoClientTakesNamesItsStream) {
  std::vector<std::shared_ptr<const ContainerRecord>> many;
  for (int i = 0; i < 100; ++i) {
    auto big = container('0', 'a', ContainerRecord::State::Running);
    big->id = fmt::format("{:064x}", i);
    big->config.annotations["big"] = std::string(256 * 1024, 'x');
    many.push_back(big);
  }
  core_.set({makePod('a')}, many);
  grpc::ClientContext context;
  v1::ListContainerStatsResponse response;
  auto status = runtime_->ListContainerStats(&context, {}, &response);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED);
  EXPECT_NE(status.error_message().find("call StreamContainerStats"), std::string::npos) << status.error_message();
}

}  // namespace
}  // namespace userpod

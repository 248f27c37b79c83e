// ContainerStats, PodSandboxStats, their lists and streams: compared with the files that they are read from.
#include <algorithm>
#include <filesystem>
#include <memory>
#include <set>
#include <sstream>

#include "tests/conformance/edits.hpp"

namespace userpod::conformance {
namespace {

using Ids = std::set<std::string>;

v1::ContainerStats statsOf(const Container& container) {
  return call(ofContainer<v1::ContainerStatsRequest>(container.id())).stats();
}
v1::PodSandboxStats statsOf(const Pod& pod) {
  return call(ofPod<v1::PodSandboxStatsRequest>(pod.id())).stats();
}

// Of a line "name value" in a file of a control group; without a name, the file is the number.
std::uint64_t number(const std::string& directory, const std::string& file, const std::string& name = "") {
  std::istringstream text(readFile(directory + "/" + file));
  std::string word;
  std::uint64_t value = 0;
  if (name.empty() && text >> value) return value;
  while (text >> word >> value)
    if (word == name) return value;
  throw std::runtime_error("no " + name + " in " + file);
}
std::uint64_t micros(const std::string& directory) {
  return number(directory, "cpu.stat", "usage_usec");
}

// By the list and by the stream, which must agree.
Ids containers(const std::function<void(v1::ContainerStatsFilter&)>& edit) {
  v1::ListContainerStatsRequest list;
  edit(*list.mutable_filter());
  Ids ids;
  auto answer = call(list);
  for (const auto& one : answer.stats()) EXPECT_TRUE(ids.insert(one.attributes().id()).second) << "twice";
  v1::StreamContainerStatsRequest stream;
  *stream.mutable_filter() = list.filter();
  Ids streamed;
  for (const auto& chunk : call(stream)) {
    EXPECT_GT(chunk.container_stats_size(), 0) << "an empty part of a stream";
    for (const auto& one : chunk.container_stats())
      EXPECT_TRUE(streamed.insert(one.attributes().id()).second) << "twice";
  }
  EXPECT_EQ(streamed, ids);
  return ids;
}
Ids pods(const std::function<void(v1::PodSandboxStatsFilter&)>& edit) {
  v1::ListPodSandboxStatsRequest list;
  edit(*list.mutable_filter());
  Ids ids;
  auto answer = call(list);
  for (const auto& one : answer.stats()) EXPECT_TRUE(ids.insert(one.attributes().id()).second) << "twice";
  v1::StreamPodSandboxStatsRequest stream;
  *stream.mutable_filter() = list.filter();
  Ids streamed;
  for (const auto& chunk : call(stream)) {
    EXPECT_GT(chunk.pod_sandbox_stats_size(), 0) << "an empty part of a stream";
    for (const auto& one : chunk.pod_sandbox_stats())
      EXPECT_TRUE(streamed.insert(one.attributes().id()).second) << "twice";
  }
  EXPECT_EQ(streamed, ids);
  return ids;
}

auto labelled(const std::string& key, const std::string& value) {
  return [=](auto& config) { (*config.mutable_labels())[key] = value; };
}

// Bytes and packets that the pod's interface has sent, as the container sees it.
std::uint64_t sentBytes(const Container& container) {
  std::istringstream text(container.text("sed -n 's/^ *eth0://p' /proc/net/dev"));
  std::uint64_t value = 0;
  for (int column = 0; column < 9; ++column) text >> value;
  return value;
}

}  // namespace

TEST(ContainerStats, OfUnknownIsNotFound) {
  PROMISE("1.1.21 unknown");
  expectFailure(ofContainer<v1::ContainerStatsRequest>(kUnknown), {StatusCode::NOT_FOUND});
  expectFailure(ofContainer<v1::ContainerStatsRequest>(""), {StatusCode::INVALID_ARGUMENT}, "container_id");
}

TEST(ContainerStats, StartOfTheIdIsEnough) {
  PROMISE("1.1.21 unknown");
  PROMISE("1.0 prefix");
  Pod pod;
  Container container(pod);
  auto answer = call(ofContainer<v1::ContainerStatsRequest>(container.id().substr(0, 13)));
  EXPECT_EQ(answer.stats().attributes().id(), container.id());
}

TEST(ContainerStats, SayWhoseTheyAreAndWhenTheyWereRead) {
  PROMISE("1.1.21 times");
  Pod pod;
  Container container(pod, labelled("app", "x"), [](auto& c) { (*c.mutable_annotations())["note"] = "y"; });
  auto before = std::chrono::system_clock::now().time_since_epoch() / std::chrono::nanoseconds(1);
  auto stats = statsOf(container);
  EXPECT_EQ(stats.attributes().metadata().SerializeAsString(), container.config().metadata().SerializeAsString());
  EXPECT_EQ(stats.attributes().labels().at("app"), "x");
  EXPECT_EQ(stats.attributes().annotations().at("note"), "y");
  EXPECT_GE(stats.cpu().timestamp(), before);
  EXPECT_GE(stats.memory().timestamp(), before);
}

TEST(ContainerStats, CpuIsThatOfTheControlGroup) {
  PROMISE("1.1.21 cpu");
  Pod pod;
  Container container(
      pod, shell("echo up; i=0; while [ $i -lt 100000 ]; do i=$((i + 1)); done; echo over; exec sleep 1000"));
  container.waitForLine("over", seconds(60));
  auto directory = cgroupOf(container.pid());
  auto before = micros(directory);
  auto stats = statsOf(container);
  auto after = micros(directory);
  ASSERT_TRUE(stats.cpu().has_usage_core_nano_seconds());
  EXPECT_GE(stats.cpu().usage_core_nano_seconds().value(), before * 1000);
  EXPECT_LE(stats.cpu().usage_core_nano_seconds().value(), after * 1000);
  EXPECT_GT(before, 1000U);
}

TEST(ContainerStats, MemoryIsThatOfTheControlGroupOrAbsent) {
  PROMISE("1.1.21 memory");
  Pod pod;
  Container container(pod,
                      [](auto& c) { c.mutable_linux()->mutable_resources()->set_memory_limit_in_bytes(64 << 20); });
  container.up();
  auto memory = statsOf(container).memory();
  EXPECT_GT(memory.timestamp(), 0);
  if (!hasController(container, "memory")) {
    EXPECT_FALSE(memory.has_usage_bytes());
    EXPECT_FALSE(memory.has_working_set_bytes());
    EXPECT_FALSE(memory.has_rss_bytes());
    EXPECT_FALSE(memory.has_available_bytes());
    return;
  }
  auto directory = cgroupOf(container.pid());
  auto usage = number(directory, "memory.current");
  constexpr std::uint64_t kSlack = 1 << 20;
  EXPECT_NEAR(static_cast<double>(memory.usage_bytes().value()), static_cast<double>(usage), kSlack);
  EXPECT_NEAR(static_cast<double>(memory.rss_bytes().value()),
              static_cast<double>(number(directory, "memory.stat", "anon")), kSlack);
  EXPECT_LE(memory.working_set_bytes().value(), memory.usage_bytes().value());
  EXPECT_EQ(memory.available_bytes().value(), (64U << 20) - memory.working_set_bytes().value());
  EXPECT_TRUE(memory.has_page_faults());
  EXPECT_TRUE(memory.has_major_page_faults());
  Container unlimited(pod);
  EXPECT_FALSE(statsOf(unlimited).memory().has_available_bytes());
}

TEST(ContainerStats, PressureIsTheKernelsOwnFigure) {
  PROMISE("1.1.21 pressure");
  Pod pod;
  Container container(pod);
  container.up();
  auto directory = cgroupOf(container.pid());
  std::string line;
  try {
    line = readFile(directory + "/cpu.pressure");
  } catch (const std::exception&) {
    EXPECT_FALSE(statsOf(container).cpu().has_psi());
    GTEST_SKIP() << "the kernel has no pressure figures";
  }
  auto total = [&] {
    auto text = readFile(directory + "/cpu.pressure");
    return std::stoull(text.substr(text.find("total=") + 6));
  };
  auto before = total();
  auto stats = statsOf(container);
  ASSERT_TRUE(stats.cpu().has_psi());
  EXPECT_GE(stats.cpu().psi().some().total(), before);
  EXPECT_LE(stats.cpu().psi().some().total(), total());
  EXPECT_GT(stats.io().timestamp(), 0);
}

TEST(ContainerStats, WritableLayerFollowsWhatIsWritten) {
  PROMISE("1.1.21 writable layer");
  Pod pod;
  Container container(pod);
  container.up().exec("dd if=/dev/zero of=/large bs=1M count=8 2>/dev/null; for i in 1 2 3; do : > /small$i; done");
  auto layer = [&] { return statsOf(container).writable_layer(); };
  waitUntil([&] { return layer().used_bytes().value() >= 8U << 20; }, "bytes of the writable layer", seconds(120));
  auto shown = layer();
  EXPECT_LT(shown.used_bytes().value(), 64U << 20);
  EXPECT_GE(shown.inodes_used().value(), 4U);
  EXPECT_GT(shown.timestamp(), container.status().started_at());
  // There a kubelet finds the file system.
  EXPECT_TRUE(std::filesystem::is_directory(shown.fs_id().mountpoint())) << shown.fs_id().mountpoint();
}

TEST(ContainerStats, OfAnEndedContainerHaveNoUsage) {
  PROMISE("1.1.21 ended");
  Pod pod;
  Container container(pod, shell("exit 0"));
  container.ended();
  auto stats = statsOf(container);
  EXPECT_EQ(stats.attributes().id(), container.id());
  EXPECT_FALSE(stats.has_cpu());
  EXPECT_FALSE(stats.has_memory());
}

TEST(ListContainerStats, WithoutFilterHasAllThatRun) {
  PROMISE("1.1.22 all");
  Pod pod;
  auto created = Container::created(pod);
  Container running(pod), ended(pod, shell("exit 0"));
  ended.ended();
  auto answer = call(v1::ListContainerStatsRequest());
  Ids ids;
  for (const auto& one : answer.stats()) {
    ids.insert(one.attributes().id());
    EXPECT_NE(one.attributes().metadata().name(), "");
  }
  EXPECT_EQ(ids.count(running.id()), 1U);
  EXPECT_EQ(ids.count(created.id()), 0U);
  EXPECT_EQ(ids.count(ended.id()), 0U);
}

TEST(ListContainerStats, SelectsByAllConditions) {
  PROMISE("1.1.22 filters");
  PROMISE("1.1.23 stream");
  auto group = uniqueName("group");
  Pod pod, other;
  Container a(pod, labelled("group", group), labelled("app", "a")), b(pod, labelled("group", group)),
      c(other, labelled("group", group)), ended(pod, shell("exit 0"), labelled("group", group));
  ended.ended();
  EXPECT_EQ(containers([&](auto& f) { f.set_id(a.id()); }), Ids{a.id()});
  EXPECT_EQ(containers([&](auto& f) { f.set_id(a.id().substr(0, 13)); }), Ids{a.id()});
  EXPECT_EQ(containers([&](auto& f) { f.set_id(ended.id()); }), Ids{ended.id()});
  EXPECT_EQ(containers([&](auto& f) { f.set_pod_sandbox_id(pod.id()); }), (Ids{a.id(), b.id()}));
  EXPECT_EQ(containers([&](auto& f) { (*f.mutable_label_selector())["group"] = group; }),
            (Ids{a.id(), b.id(), c.id()}));
  EXPECT_EQ(containers([&](auto& f) {
              (*f.mutable_label_selector())["group"] = group;
              (*f.mutable_label_selector())["app"] = "a";
            }),
            Ids{a.id()});
  EXPECT_EQ(containers([&](auto& f) {
              f.set_id(a.id());
              f.set_pod_sandbox_id(other.id());
            }),
            Ids());
  EXPECT_EQ(containers([](auto& f) { f.set_id(kUnknown); }), Ids());
  EXPECT_EQ(containers([](auto& f) { f.set_pod_sandbox_id(kUnknown); }), Ids());
}

TEST(PodSandboxStats, OfUnknownIsNotFound) {
  PROMISE("1.1.24 unknown");
  expectFailure(ofPod<v1::PodSandboxStatsRequest>(kUnknown), {StatusCode::NOT_FOUND});
  expectFailure(ofPod<v1::PodSandboxStatsRequest>(""), {StatusCode::INVALID_ARGUMENT}, "pod_sandbox_id");
}

TEST(PodSandboxStats, AreOfThePodsControlGroupAndItsContainers) {
  PROMISE("1.1.24 pod");
  Pod pod(labelled("app", "x"));
  auto created = Container::created(pod);
  Container one(pod), two(pod), ended(pod, shell("exit 0"));
  one.up();
  two.up();
  ended.ended();
  auto stats = statsOf(pod);
  EXPECT_EQ(stats.attributes().id(), pod.id());
  EXPECT_EQ(stats.attributes().metadata().SerializeAsString(), pod.config().metadata().SerializeAsString());
  EXPECT_EQ(stats.attributes().labels().at("app"), "x");
  const auto& linux = stats.linux();
  EXPECT_GT(linux.cpu().timestamp(), 0);
  EXPECT_GT(linux.memory().timestamp(), 0);
  Ids ids;
  std::uint64_t sum = 0;
  for (const auto& container : linux.containers()) {
    ids.insert(container.attributes().id());
    sum += container.cpu().usage_core_nano_seconds().value();
  }
  EXPECT_EQ(ids, (Ids{one.id(), two.id()}));
  // The pod's has more than its containers': what has ended counts too.
  auto directory = std::filesystem::path(cgroupOf(one.pid())).parent_path().string();
  EXPECT_GE(statsOf(pod).linux().cpu().usage_core_nano_seconds().value(), sum);
  EXPECT_LE(linux.cpu().usage_core_nano_seconds().value(), micros(directory) * 1000);
  if (hasController(one, "pids")) {
    EXPECT_GT(linux.process().timestamp(), 0);
    EXPECT_GE(linux.process().process_count().value(), 3U);
  } else {
    EXPECT_FALSE(linux.has_process());
  }
}

TEST(PodSandboxStats, NetworkIsThatOfThePodsInterface) {
  PROMISE("1.1.24 network");
  Pod pod, other;
  Container container(pod);
  container.up().exec("nc -w 2 " + other.status().network().ip() + " 9");
  auto before = sentBytes(container);
  auto network = statsOf(pod).linux().network();
  auto after = sentBytes(container);
  EXPECT_GT(network.timestamp(), 0);
  EXPECT_EQ(network.default_interface().name(), "eth0");
  EXPECT_GE(network.default_interface().tx_bytes().value(), before);
  EXPECT_LE(network.default_interface().tx_bytes().value(), after);
  EXPECT_GT(before, 0U);
  EXPECT_TRUE(network.default_interface().has_rx_bytes());
  EXPECT_TRUE(network.default_interface().has_rx_errors());
  EXPECT_TRUE(network.default_interface().has_tx_errors());
  for (const auto& one : network.interfaces()) EXPECT_NE(one.name(), "lo");
}

TEST(PodSandboxStats, OnTheNodesNetworkHaveNone) {
  PROMISE("1.1.24 network");
  Pod pod([](auto& c) { namespacesOf(c)->set_network(v1::NODE); });
  auto stats = statsOf(pod);
  EXPECT_FALSE(stats.linux().has_network());
  EXPECT_TRUE(stats.linux().has_cpu());
}

TEST(ListPodSandboxStats, SelectsByAllConditions) {
  PROMISE("1.1.25 filters");
  PROMISE("1.1.26 stream");
  auto group = uniqueName("group");
  Pod a(labelled("group", group), labelled("app", "a")), b(labelled("group", group)), stopped(labelled("group", group));
  stopped.stop();
  EXPECT_EQ(pods([&](auto& f) { f.set_id(a.id()); }), Ids{a.id()});
  EXPECT_EQ(pods([&](auto& f) { f.set_id(a.id().substr(0, 13)); }), Ids{a.id()});
  EXPECT_EQ(pods([&](auto& f) { (*f.mutable_label_selector())["group"] = group; }), (Ids{a.id(), b.id()}));
  EXPECT_EQ(pods([&](auto& f) {
              (*f.mutable_label_selector())["group"] = group;
              (*f.mutable_label_selector())["app"] = "a";
            }),
            Ids{a.id()});
  EXPECT_EQ(pods([](auto& f) { f.set_id(kUnknown); }), Ids());
}

TEST(ImageFsInfo, HasFileSystemsOfImagesAndOfContainers) {
  PROMISE("1.1.41 file systems");
  Pod pod;
  Container container(pod);
  auto info = call(v1::ImageFsInfoRequest());
  ASSERT_EQ(info.image_filesystems_size(), 1);
  ASSERT_EQ(info.container_filesystems_size(), 1);
  for (const auto& one : {info.image_filesystems(0), info.container_filesystems(0)}) {
    EXPECT_GT(one.timestamp(), 0);
    EXPECT_TRUE(std::filesystem::is_directory(one.fs_id().mountpoint())) << one.fs_id().mountpoint();
    EXPECT_TRUE(one.has_used_bytes());
    EXPECT_TRUE(one.has_inodes_used());
  }
  EXPECT_GT(info.image_filesystems(0).used_bytes().value(), 0U);
}

// Alone, as all other lists would be too large too.
TEST(AloneLargeLists, AreRefusedByTheNameOfTheirStreamsWhichHaveThem) {
  PROMISE("1.0 large lists");
  std::vector<std::unique_ptr<Pod>> many;
  Ids ids;
  for (int i = 0; i < 17; ++i) {
    many.push_back(
        std::make_unique<Pod>([](auto& c) { (*c.mutable_annotations())["large"] = std::string(1'000'000, 'x'); }));
    ids.insert(many.back()->id());
  }
  expectFailure(v1::ListPodSandboxRequest(), {StatusCode::RESOURCE_EXHAUSTED}, "StreamPodSandboxes");
  expectFailure(v1::ListPodSandboxStatsRequest(), {StatusCode::RESOURCE_EXHAUSTED}, "StreamPodSandboxStats");
  Ids streamed, figures;
  for (const auto& chunk : call(v1::StreamPodSandboxesRequest())) {
    EXPECT_LT(chunk.ByteSizeLong(), 16U << 20);
    for (const auto& one : chunk.pod_sandboxes()) streamed.insert(one.id());
  }
  for (const auto& chunk : call(v1::StreamPodSandboxStatsRequest())) {
    EXPECT_LT(chunk.ByteSizeLong(), 16U << 20);
    for (const auto& one : chunk.pod_sandbox_stats()) figures.insert(one.attributes().id());
  }
  EXPECT_TRUE(std::includes(streamed.begin(), streamed.end(), ids.begin(), ids.end()));
  EXPECT_TRUE(std::includes(figures.begin(), figures.end(), ids.begin(), ids.end()));
}

}  // namespace userpod::conformance

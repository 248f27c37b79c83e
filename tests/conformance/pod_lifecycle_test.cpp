// Pods after RunPodSandbox: stop, remove, status, lists and streams.
#include <signal.h>
#include <unistd.h>

#include <atomic>
#include <memory>
#include <nlohmann/json.hpp>
#include <set>

#include "tests/conformance/world.hpp"

namespace userpod::conformance {
namespace {

using Ids = std::set<std::string>;

// The pods that a filter selects, by the list and by the stream, which must agree. Of this test alone: of one label.
Ids listed(const std::function<void(v1::PodSandboxFilter&)>& edit) {
  v1::ListPodSandboxRequest list;
  edit(*list.mutable_filter());
  Ids ids;
  auto answer = call(list);
  for (const auto& item : answer.items()) EXPECT_TRUE(ids.insert(item.id()).second) << "twice: " << item.id();
  v1::StreamPodSandboxesRequest stream;
  *stream.mutable_filter() = list.filter();
  Ids streamed;
  for (const auto& chunk : call(stream)) {
    EXPECT_GT(chunk.pod_sandboxes_size(), 0) << "an empty part of a stream";
    for (const auto& item : chunk.pod_sandboxes()) EXPECT_TRUE(streamed.insert(item.id()).second) << item.id();
  }
  EXPECT_EQ(streamed, ids);
  return ids;
}

auto label(const std::string& key, const std::string& value) {
  return [=](auto& message) { (*message.mutable_labels())[key] = value; };
}

auto selecting(const std::map<std::string, std::string>& labels) {
  return [=](v1::PodSandboxFilter& filter) { filter.mutable_label_selector()->insert(labels.begin(), labels.end()); };
}

}  // namespace

// ---- StopPodSandbox

TEST(StopPodSandbox, EndsItsContainersAndIsNotReady) {
  PROMISE("1.1.3 stop");
  Pod pod;
  Container one(pod), two(pod);
  one.up();
  two.up();
  auto pids = {one.pid(), two.pid()};
  pod.stop();
  EXPECT_EQ(pod.status().state(), v1::SANDBOX_NOTREADY);
  for (const auto* container : {&one, &two}) {
    EXPECT_EQ(container->state(), v1::CONTAINER_EXITED);
    EXPECT_EQ(container->status().exit_code(), 0) << "it had no grace";
  }
  for (auto pid : pids) EXPECT_NE(kill(pid, 0), 0) << "process " << pid << " is left";
}

TEST(StopPodSandbox, EndsCreatedContainers) {
  PROMISE("1.1.3 stop");
  Pod pod;
  auto container = Container::created(pod);
  pod.stop();
  EXPECT_EQ(container.state(), v1::CONTAINER_EXITED);
  expectFailure(ofContainer<v1::StartContainerRequest>(container.id()));
}

TEST(StopPodSandbox, AgainAndUnknownIsFine) {
  PROMISE("1.1.3 idempotent");
  Pod pod;
  Container container(pod);
  container.up();
  atOnce(4, [&] { return stopPod(pod.id()), 0; });
  pod.stop();
  EXPECT_EQ(pod.status().state(), v1::SANDBOX_NOTREADY);
  stopPod(kUnknown);
}

TEST(StopPodSandbox, EmptyIdIsAnError) {
  PROMISE("1.0 empty id");
  expectFailure(v1::StopPodSandboxRequest());
  expectFailure(v1::RemovePodSandboxRequest());
  expectFailure(v1::PodSandboxStatusRequest());
}

TEST(StopPodSandbox, ThenNoContainerIsMade) {
  PROMISE("1.1.3 afterwards");
  Pod pod;
  pod.stop();
  auto config = containerConfig(pod);
  expectFailure(createRequest(pod, config));
  auto containers =
      call(with<v1::ListContainersRequest>([&](auto& r) { r.mutable_filter()->set_pod_sandbox_id(pod.id()); }));
  EXPECT_EQ(containers.containers_size(), 0);
}

TEST(StopPodSandbox, ThenStatusAndListStillTellOfIt) {
  PROMISE("1.1.3 afterwards");
  Pod pod(label("stopped", "yes"), [](auto& c) { (*c.mutable_annotations())["note"] = "kept"; });
  auto before = pod.status();
  pod.stop();
  auto after = pod.status();
  EXPECT_EQ(after.created_at(), before.created_at());
  EXPECT_EQ(after.metadata().SerializeAsString(), before.metadata().SerializeAsString());
  EXPECT_EQ(after.annotations().at("note"), "kept");
  EXPECT_EQ(after.labels().at("stopped"), "yes");
  EXPECT_EQ(listed([&](auto& filter) { filter.set_id(pod.id()); }), Ids{pod.id()});
}

TEST(StopPodSandbox, IsNeverReadyAgain) {
  PROMISE("1.5 pod states");
  Pod pod;
  pod.stop();
  // The same attempt again is either an error or this pod, which stays as it is.
  auto again = attempt(with<v1::RunPodSandboxRequest>([&](auto& r) { *r.mutable_config() = pod.config(); }));
  if (again.status.ok()) {
    EXPECT_EQ(again.value.pod_sandbox_id(), pod.id());
  }
  EXPECT_EQ(pod.status().state(), v1::SANDBOX_NOTREADY);
  auto next = pod.config();
  next.mutable_metadata()->set_attempt(1);
  EXPECT_EQ(Pod(next, "").status().state(), v1::SANDBOX_READY);
}

// ---- RemovePodSandbox

TEST(RemovePodSandbox, RemovesARunningPodAndAllInIt) {
  PROMISE("1.1.4 remove");
  auto marker = uniqueName("marker");
  auto config = podConfig();
  auto pod = runPod(config);
  v1::CreateContainerRequest request;
  request.set_pod_sandbox_id(pod);
  *request.mutable_sandbox_config() = config;
  *request.mutable_config() = defaultContainer(config);
  shell("trap '' TERM; sleep 3600; echo " + marker)(*request.mutable_config());
  auto container = call(request).container_id();
  startContainer(container);
  waitUntil([&] { return processesWith(marker).size() == 1; }, "the container's process");
  removePod(pod);
  EXPECT_EQ(processesWith(marker).size(), 0U);
  expectFailure(ofPod<v1::PodSandboxStatusRequest>(pod), {StatusCode::NOT_FOUND});
  expectFailure(ofContainer<v1::ContainerStatusRequest>(container), {StatusCode::NOT_FOUND});
  EXPECT_EQ(listed([&](auto& filter) { filter.set_id(pod); }), Ids());
}

TEST(RemovePodSandbox, AgainAndUnknownIsFine) {
  PROMISE("1.1.4 idempotent");
  auto pod = runPod(podConfig());
  atOnce(4, [&] { return removePod(pod), 0; });
  removePod(pod);
  removePod(kUnknown);
}

TEST(RemovePodSandbox, FreesTheName) {
  PROMISE("1.1.4 name");
  auto config = podConfig();
  auto first = runPod(config);
  stopPod(first);
  removePod(first);
  Pod second(config, "");
  EXPECT_NE(second.id(), first);
  EXPECT_EQ(second.status().state(), v1::SANDBOX_READY);
}

// ---- PodSandboxStatus

TEST(PodSandboxStatus, UnknownIsNotFound) {
  PROMISE("1.1.5 unknown");
  expectFailure(ofPod<v1::PodSandboxStatusRequest>(kUnknown), {StatusCode::NOT_FOUND});
}

TEST(PodSandboxStatus, InfoOnlyWhenVerbose) {
  PROMISE("1.1.5 info");
  Pod pod;
  auto request = ofPod<v1::PodSandboxStatusRequest>(pod.id());
  EXPECT_EQ(call(request).info_size(), 0);
  request.set_verbose(true);
  auto verbose = call(request);
  ASSERT_EQ(verbose.info().count("info"), 1U);
  EXPECT_TRUE(nlohmann::json::parse(verbose.info().at("info")).is_object());
  EXPECT_EQ(verbose.status().id(), pod.id());
}

// ---- Ids

TEST(Ids, StartOfThePodsIdIsEnough) {
  PROMISE("1.0 prefix");
  Pod pod;
  auto start = pod.id().substr(0, 13);
  EXPECT_EQ(podStatus(start).id(), pod.id());
  EXPECT_EQ(listed([&](auto& filter) { filter.set_id(start); }), Ids{pod.id()});
  Container container(pod);
  container.up();
  auto containers =
      call(with<v1::ListContainersRequest>([&](auto& r) { r.mutable_filter()->set_pod_sandbox_id(start); }));
  ASSERT_EQ(containers.containers_size(), 1);
  stopPod(start);
  EXPECT_EQ(pod.status().state(), v1::SANDBOX_NOTREADY);
  removePod(start);
  expectFailure(ofPod<v1::PodSandboxStatusRequest>(pod.id()), {StatusCode::NOT_FOUND});
}

TEST(Ids, StartOfTwoIdsIsAnError) {
  PROMISE("1.0 ambiguous");
  std::vector<std::unique_ptr<Pod>> pods;
  std::set<char> seen;
  do {  // two of seventeen have the same first digit
    pods.push_back(std::make_unique<Pod>());
  } while (seen.insert(pods.back()->id()[0]).second);
  auto start = pods.back()->id().substr(0, 1);
  expectFailure(ofPod<v1::PodSandboxStatusRequest>(start));
  expectFailure(ofPod<v1::StopPodSandboxRequest>(start));
  expectFailure(ofPod<v1::RemovePodSandboxRequest>(start));
  for (const auto& pod : pods) EXPECT_EQ(pod->status().state(), v1::SANDBOX_READY);
}

// ---- ListPodSandbox

TEST(ListPodSandbox, SelectsById) {
  PROMISE("1.1.6 filters");
  Pod pod, other;
  EXPECT_EQ(listed([&](auto& filter) { filter.set_id(pod.id()); }), Ids{pod.id()});
  EXPECT_EQ(listed([&](auto& filter) { filter.set_id(kUnknown); }), Ids());
}

TEST(ListPodSandbox, SelectsByAllLabels) {
  PROMISE("1.1.6 filters");
  auto group = uniqueName("group");
  Pod a(label("group", group), label("app", "a"), label("tier", "x"));
  Pod b(label("group", group), label("app", "b"), label("tier", "x"));
  EXPECT_EQ(listed(selecting({{"group", group}})), (Ids{a.id(), b.id()}));
  EXPECT_EQ(listed(selecting({{"group", group}, {"tier", "x"}, {"app", "b"}})), Ids{b.id()});
  EXPECT_EQ(listed(selecting({{"group", group}, {"app", ""}})), Ids());
  EXPECT_EQ(listed(selecting({{"group", group}, {"none", ""}})), Ids());
}

TEST(ListPodSandbox, SelectsByState) {
  PROMISE("1.1.6 filters");
  auto group = uniqueName("group");
  Pod ready(label("group", group)), stopped(label("group", group));
  stopped.stop();
  auto inState = [&](v1::PodSandboxState state) {
    return listed([&](auto& filter) {
      selecting({{"group", group}})(filter);
      filter.mutable_state()->set_state(state);
    });
  };
  EXPECT_EQ(inState(v1::SANDBOX_READY), Ids{ready.id()});
  EXPECT_EQ(inState(v1::SANDBOX_NOTREADY), Ids{stopped.id()});
  EXPECT_EQ(listed([&](auto& filter) {
              filter.set_id(ready.id());
              filter.mutable_state()->set_state(v1::SANDBOX_NOTREADY);
            }),
            Ids());
}

TEST(ListPodSandbox, WithoutFilterHasAllAndSaysWhatStatusSays) {
  PROMISE("1.1.6 all");
  Pod pod(label("a", "b"), [](auto& c) { (*c.mutable_annotations())["note"] = "x"; });
  Pod stopped;
  stopped.stop();
  auto answer = call(v1::ListPodSandboxRequest());
  Ids ids;
  for (const auto& item : answer.items()) {
    ids.insert(item.id());
    if (item.id() != pod.id()) continue;
    auto status = pod.status();
    EXPECT_EQ(item.created_at(), status.created_at());
    EXPECT_EQ(item.state(), status.state());
    EXPECT_EQ(item.metadata().SerializeAsString(), status.metadata().SerializeAsString());
    EXPECT_EQ(item.annotations().at("note"), "x");
    EXPECT_EQ(item.labels().at("a"), "b");
  }
  EXPECT_EQ(ids.count(pod.id()), 1U);
  EXPECT_EQ(ids.count(stopped.id()), 1U);
}

TEST(ListPodSandbox, HasNoPodThatIsHalfMade) {
  PROMISE("1.1.6 half made");
  auto group = uniqueName("group");
  std::atomic<bool> over = false;
  auto watcher = std::async(std::launch::async, [&] {
    std::size_t most = 0;
    while (!over) {
      auto answer =
          call(with<v1::ListPodSandboxRequest>([&](auto& r) { selecting({{"group", group}})(*r.mutable_filter()); }));
      for (const auto& item : answer.items()) EXPECT_EQ(podStatus(item.id()).state(), v1::SANDBOX_READY);
      for (const auto& item : answer.items()) EXPECT_NE(podStatus(item.id()).network().ip(), "");
      most = std::max(most, static_cast<std::size_t>(answer.items_size()));
    }
    return most;
  });
  {
    std::vector<std::unique_ptr<Pod>> pods;
    for (int made = 0; made < 5; ++made) pods.push_back(std::make_unique<Pod>(label("group", group)));
    over = true;
    EXPECT_LE(watcher.get(), 5U);
  }
}

// ---- UpdatePodSandboxResources

TEST(UpdatePodSandboxResources, UnknownIsNotFound) {
  PROMISE("1.1.35 unknown");
  expectFailure(ofPod<v1::UpdatePodSandboxResourcesRequest>(kUnknown), {StatusCode::NOT_FOUND});
}

TEST(UpdatePodSandboxResources, TellsARunningPod) {
  PROMISE("1.1.35 update");
  auto parent = "/kubepods/" + uniqueName("pod");
  {
    Pod pod([&](auto& c) { c.mutable_linux()->set_cgroup_parent(parent); });
    Container container(pod);
    auto request = ofPod<v1::UpdatePodSandboxResourcesRequest>(pod.id());
    request.mutable_overhead()->set_memory_limit_in_bytes(16 << 20);
    request.mutable_resources()->set_cpu_shares(256);
    request.mutable_resources()->set_memory_limit_in_bytes(1 << 30);
    call(request);
    EXPECT_EQ(pod.status().state(), v1::SANDBOX_READY);
    EXPECT_EQ(container.state(), v1::CONTAINER_RUNNING);
  }
  rmdir(("/sys/fs/cgroup" + parent).c_str());
}

}  // namespace userpod::conformance

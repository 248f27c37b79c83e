// GetContainerEvents, and what PodSandboxStatus has for clients that work by events.
#include <cstdlib>
#include <memory>

#include "tests/conformance/world.hpp"

namespace userpod::conformance {
namespace {

constexpr auto kCreated = v1::CONTAINER_CREATED_EVENT;
constexpr auto kStarted = v1::CONTAINER_STARTED_EVENT;
constexpr auto kStopped = v1::CONTAINER_STOPPED_EVENT;
constexpr auto kDeleted = v1::CONTAINER_DELETED_EVENT;

// "pod created", "container started"...: who else than the pod itself is a container.
std::vector<std::string> words(const Events::List& events, const std::string& pod) {
  std::vector<std::string> words;
  for (const auto& event : events) {
    std::string type = v1::ContainerEventType_Name(event.container_event_type()).substr(10);
    words.push_back((event.container_id() == pod ? "pod " : "container ") + type.substr(0, type.find('_')));
  }
  return words;
}

const v1::ContainerEventResponse* find(const Events::List& events, const std::string& id, v1::ContainerEventType type) {
  for (const auto& event : events)
    if (event.container_id() == id && event.container_event_type() == type) return &event;
  return nullptr;
}

std::int64_t now() {
  return std::chrono::system_clock::now().time_since_epoch() / std::chrono::nanoseconds(1);
}

void restartRuntime() {
  ASSERT_EQ(std::system(options().restart.c_str()), 0) << options().restart;
  waitUntil([] { return attempt(v1::VersionRequest()).status.ok(); }, "an answer of the runtime", seconds(30));
}

}  // namespace

TEST(Events, TellEachStepOnceAndInOrder) {
  PROMISE("1.1.30 steps");
  PROMISE("1.5 events");
  Events events;
  auto before = now();
  Pod pod;
  Container container(pod);
  container.up().stop(20);
  container.remove();
  pod.stop();
  pod.remove();
  auto told = events.until(pod.id(), pod.id(), kDeleted);
  EXPECT_EQ(words(told, pod.id()),
            (std::vector<std::string>{"pod CREATED", "pod STARTED", "container CREATED", "container STARTED",
                                      "container STOPPED", "container DELETED", "pod STOPPED", "pod DELETED"}));
  std::int64_t last = before - 1;
  for (const auto& event : told) {
    EXPECT_GT(event.created_at(), last);
    last = event.created_at();
  }
  EXPECT_LE(last, now());
}

TEST(Events, OfCallsThatComeAgainAreToldOnce) {
  PROMISE("1.1.30 steps");
  Events events;
  Pod pod;
  EXPECT_EQ(runPod(pod.config()), pod.id());
  Container container(pod);
  EXPECT_EQ(createContainer(pod, container.config()), container.id());
  expectFailure(ofContainer<v1::StartContainerRequest>(container.id()));
  container.up();
  // What changes without a step is no event.
  call(with<v1::UpdatePodSandboxResourcesRequest>([&](auto& r) {
    r.set_pod_sandbox_id(pod.id());
    r.mutable_overhead()->set_memory_limit_in_bytes(1 << 20);
  }));
  if (!options().pause.empty()) {
    EXPECT_EQ(std::system((options().pause + " " + container.id()).c_str()), 0);
    EXPECT_EQ(std::system((options().resume + " " + container.id()).c_str()), 0);
  }
  for (int i = 0; i < 2; ++i) {
    container.stop(20);
    pod.stop();
  }
  for (int i = 0; i < 2; ++i) container.remove();
  for (int i = 0; i < 2; ++i) pod.remove();
  auto told = events.until(pod.id(), pod.id(), kDeleted);
  EXPECT_EQ(told.size(), 8U) << testing::PrintToString(words(told, pod.id()));
}

TEST(Events, HaveTheStatusOfThePodAndAllItsContainers) {
  PROMISE("1.1.30 statuses");
  Events events;
  Pod pod([](auto& c) { (*c.mutable_annotations())["note"] = "of the pod"; });
  auto other = Container::created(pod);
  Container container(pod, shell("exit 3"), [](auto& c) { (*c.mutable_annotations())["note"] = "of the container"; });
  auto told = events.until(pod.id(), container.id(), kStopped);
  const auto* stopped = find(told, container.id(), kStopped);
  ASSERT_NE(stopped, nullptr);
  EXPECT_EQ(stopped->pod_sandbox_status().SerializeAsString().size(), pod.status().SerializeAsString().size());
  EXPECT_EQ(stopped->pod_sandbox_status().state(), v1::SANDBOX_READY);
  EXPECT_EQ(stopped->pod_sandbox_status().metadata().uid(), pod.config().metadata().uid());
  EXPECT_EQ(stopped->pod_sandbox_status().network().ip(), pod.status().network().ip());
  EXPECT_EQ(stopped->pod_sandbox_status().annotations().at("note"), "of the pod");
  ASSERT_EQ(stopped->containers_statuses_size(), 2);
  std::map<std::string, v1::ContainerStatus> statuses;
  for (const auto& one : stopped->containers_statuses()) statuses[one.id()] = one;
  EXPECT_EQ(statuses[other.id()].state(), v1::CONTAINER_CREATED);
  const auto& ended = statuses[container.id()];
  EXPECT_EQ(ended.state(), v1::CONTAINER_EXITED);
  EXPECT_EQ(ended.exit_code(), 3);
  EXPECT_GT(ended.finished_at(), 0);
  EXPECT_EQ(ended.annotations().at("note"), "of the container");
  // As things stood then, not as they stand now.
  EXPECT_EQ(find(told, container.id(), kCreated)->containers_statuses_size(), 2);
  for (const auto& one : find(told, container.id(), kStarted)->containers_statuses())
    EXPECT_EQ(one.state(), one.id() == container.id() ? v1::CONTAINER_RUNNING : v1::CONTAINER_CREATED);
  container.remove();
  told = events.until(pod.id(), container.id(), kDeleted);
  ASSERT_EQ(find(told, container.id(), kDeleted)->containers_statuses_size(), 1);
  EXPECT_EQ(find(told, container.id(), kDeleted)->containers_statuses(0).id(), other.id());
}

TEST(Events, OfAStoppedPodComeAfterThoseOfItsContainers) {
  PROMISE("1.1.30 steps");
  Events events;
  Pod pod;
  Container one(pod), two(pod);
  one.up();
  two.up();
  pod.remove();
  auto told = events.until(pod.id(), pod.id(), kDeleted);
  std::vector<std::string> last = words(told, pod.id());
  last.erase(last.begin(), last.begin() + 6);
  EXPECT_EQ(last, (std::vector<std::string>{"container STOPPED", "container STOPPED", "pod STOPPED",
                                            "container DELETED", "container DELETED", "pod DELETED"}));
  EXPECT_EQ(find(told, pod.id(), kStopped)->pod_sandbox_status().state(), v1::SANDBOX_NOTREADY);
}

TEST(Events, OfWhatWasNotMadeThereAreNone) {
  PROMISE("1.1.30 steps");
  Events events;
  Pod pod;
  auto config = containerConfig(pod, command({"/no/such/program"}));
  auto made = attempt(createRequest(pod, config));
  // Some runtimes find it at the start only.
  if (made.status.ok()) expectFailure(ofContainer<v1::StartContainerRequest>(made.value.container_id()));
  pod.remove();
  auto told = words(events.until(pod.id(), pod.id(), kDeleted), pod.id());
  if (!made.status.ok()) {
    EXPECT_EQ(told, (std::vector<std::string>{"pod CREATED", "pod STARTED", "pod STOPPED", "pod DELETED"}));
  }
}

TEST(Events, OfAnEndBeforeTheStartAreCreatedAndStopped) {
  PROMISE("1.1.30 steps");
  Events events;
  Pod pod;
  auto container = Container::created(pod);
  killProcess(container.pid());
  auto told = events.until(pod.id(), container.id(), kStopped);
  EXPECT_EQ(find(told, container.id(), kStarted), nullptr);
}

TEST(Events, AreToldToEveryClientFromItsCallOn) {
  PROMISE("1.1.30 clients");
  std::vector<std::unique_ptr<Events>> clients;
  for (int i = 0; i < 8; ++i) clients.push_back(std::make_unique<Events>());
  Pod pod;
  Events late;
  Container container(pod);
  container.up().stop(20);
  for (const auto& client : clients)
    EXPECT_EQ(words(client->until(pod.id(), container.id(), kStopped), pod.id()),
              (std::vector<std::string>{"pod CREATED", "pod STARTED", "container CREATED", "container STARTED",
                                        "container STOPPED"}));
  EXPECT_EQ(words(late.until(pod.id(), container.id(), kStopped), pod.id()),
            (std::vector<std::string>{"container CREATED", "container STARTED", "container STOPPED"}));
  // One that goes away is no trouble to the others.
  clients.resize(1);
  container.remove();
  late.until(pod.id(), container.id(), kDeleted);
  clients.front()->until(pod.id(), container.id(), kDeleted);
}

TEST(PodSandboxStatus, HasTheStatusesOfItsContainersAndWhenTheyWereTrue) {
  PROMISE("1.1.5 containers");
  Pod pod, other;
  auto created = Container::created(pod);
  Container running(pod), elsewhere(other);
  running.up();
  auto before = now();
  auto answer = call(ofPod<v1::PodSandboxStatusRequest>(pod.id()));
  EXPECT_GE(answer.timestamp(), before);
  EXPECT_LE(answer.timestamp(), now());
  std::map<std::string, v1::ContainerStatus> statuses;
  for (const auto& one : answer.containers_statuses()) statuses[one.id()] = one;
  EXPECT_EQ(statuses.size(), 2U);
  EXPECT_EQ(statuses[created.id()].state(), v1::CONTAINER_CREATED);
  EXPECT_EQ(statuses[running.id()].state(), v1::CONTAINER_RUNNING);
  EXPECT_EQ(statuses[running.id()].SerializeAsString().size(), running.status().SerializeAsString().size());
  running.remove();
  EXPECT_EQ(call(ofPod<v1::PodSandboxStatusRequest>(pod.id())).containers_statuses_size(), 1);
}

TEST(AloneEvents, EndWithTheRuntimeAndTellAfterwardsWhatHappenedMeanwhile) {
  PROMISE("1.1.30 restart");
  if (options().restart.empty()) GTEST_SKIP() << "no --restart command";
  Events before;
  Pod pod;
  // They end one after the other, some while the runtime is away.
  std::vector<std::unique_ptr<Container>> containers;
  for (int number = 0; number < 10; ++number)
    containers.push_back(
        std::make_unique<Container>(pod, shell("usleep " + std::to_string(150'000 * number) + "; exit 5")));
  restartRuntime();
  EXPECT_EQ(before.ended().error_code(), StatusCode::UNAVAILABLE);
  Events after;
  auto earlier = before.of(pod.id());
  for (const auto& container : containers) {
    if (find(earlier, container->id(), kStopped) != nullptr) continue;
    auto told = after.until(pod.id(), container->id(), kStopped);
    EXPECT_EQ(find(told, container->id(), kStarted), nullptr);
  }
  for (const auto& container : containers) {
    int stops = 0;
    for (const auto& list : {earlier, after.of(pod.id())})
      for (const auto& event : list)
        stops += event.container_id() == container->id() && event.container_event_type() == kStopped ? 1 : 0;
    EXPECT_EQ(stops, 1);
  }
}

}  // namespace userpod::conformance

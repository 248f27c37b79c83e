// Clients that follow events: how many there may be, and what becomes of those that read slowly, go away, or outstay
// the daemon.
#include <nlohmann/json.hpp>

#include "tests/unit/cri_bed.hpp"

namespace userpod {
namespace {

namespace v1 = ::runtime::v1;
using namespace std::chrono_literals;
using core::Event;
using tests::makePod;

std::shared_ptr<ContainerRecord> containerOf(const std::string& pod, char digit, ContainerRecord::State state) {
  auto record = std::make_shared<ContainerRecord>(*tests::makeContainer(std::string(64, digit)));
  record->podId = pod;
  record->state = state;
  return record;
}

Event eventOf(Event::Kind kind, std::int64_t time, const std::shared_ptr<const PodRecord>& pod = makePod('a')) {
  Event event;
  event.kind = kind;
  event.id = std::string(64, '1');
  event.time = time;
  event.pod = pod;
  event.containers = {containerOf(pod->id, '1', ContainerRecord::State::Running)};
  return event;
}

// One client's stream.
class Follower {
 public:
  explicit Follower(v1::RuntimeService::Stub& stub) : reader_(stub.GetContainerEvents(&context_, {})) {
    reader_->WaitForInitialMetadata();
  }
  ~Follower() {
    context_.TryCancel();
    while (reader_->Read(&event)) continue;
    if (!finished_) (void)reader_->Finish();
  }
  bool read() { return reader_->Read(&event); }
  grpc::Status finish() {
    finished_ = true;
    return reader_->Finish();
  }
  void cancel() { context_.TryCancel(); }

  v1::ContainerEventResponse event;

 private:
  grpc::ClientContext context_;
  std::unique_ptr<grpc::ClientReader<v1::ContainerEventResponse>> reader_;
  bool finished_ = false;
};

class CriEvents : public tests::CriServer {
 protected:
  nlohmann::json info() {
    grpc::ClientContext context;
    v1::StatusRequest request;
    request.set_verbose(true);
    v1::StatusResponse response;
    EXPECT_TRUE(runtime_->Status(&context, request, &response).ok());
    return nlohmann::json::parse(response.info().at("events"));
  }
  // Polled by calls, which take the server's time too.
  template <typename Condition>
  bool comes(Condition&& condition) {
    for (int i = 0; i < 5000; ++i)
      if (condition(info())) return true;
    return false;
  }
};

TEST_F(CriEvents, AnEventHasTheWholeStateOfItsPod) {
  Follower follower(*runtime_);
  auto pod = std::make_shared<PodRecord>(*makePod('a'));
  pod->addresses = {"10.88.0.2"};
  Event event = eventOf(Event::Kind::Stopped, 42, pod);
  event.containers = {containerOf(pod->id, '1', ContainerRecord::State::Exited),
                      containerOf(pod->id, '2', ContainerRecord::State::Creating),
                      containerOf(pod->id, '3', ContainerRecord::State::Running)};
  core_.tell(event);
  ASSERT_TRUE(follower.read());
  EXPECT_EQ(follower.event.container_id(), std::string(64, '1'));
  EXPECT_EQ(follower.event.container_event_type(), v1::CONTAINER_STOPPED_EVENT);
  EXPECT_EQ(follower.event.created_at(), 42);
  EXPECT_EQ(follower.event.pod_sandbox_status().id(), pod->id);
  EXPECT_EQ(follower.event.pod_sandbox_status().state(), v1::SANDBOX_READY);
  EXPECT_EQ(follower.event.pod_sandbox_status().network().ip(), "10.88.0.2");
  EXPECT_EQ(follower.event.pod_sandbox_status().metadata().name(), "pod");
  ASSERT_EQ(follower.event.containers_statuses_size(), 2);
  EXPECT_EQ(follower.event.containers_statuses(0).state(), v1::CONTAINER_EXITED);
  EXPECT_EQ(follower.event.containers_statuses(0).annotations_size(), 5);
  EXPECT_EQ(follower.event.containers_statuses(1).id(), std::string(64, '3'));
}

TEST_F(CriEvents, EveryClientHearsAllOfThemInOrder) {
  std::vector<std::unique_ptr<Follower>> followers;
  for (int i = 0; i < 50; ++i) followers.push_back(std::make_unique<Follower>(*runtime_));
  EXPECT_EQ(info().at("clients"), 50);
  for (int i = 1; i <= 200; ++i) core_.tell(eventOf(Event::Kind::Started, i));
  for (auto& follower : followers)
    for (int i = 1; i <= 200; ++i) {
      ASSERT_TRUE(follower->read());
      ASSERT_EQ(follower->event.created_at(), i);
    }
  EXPECT_EQ(info().at("dropped"), 0);
}

TEST_F(CriEvents, ANewClientHearsWhatHappensFromThenOn) {
  Follower early(*runtime_);
  core_.tell(eventOf(Event::Kind::Created, 1));
  Follower late(*runtime_);
  core_.tell(eventOf(Event::Kind::Started, 2));
  ASSERT_TRUE(late.read());
  EXPECT_EQ(late.event.created_at(), 2);
  ASSERT_TRUE(early.read());
  EXPECT_EQ(early.event.created_at(), 1);
}

TEST_F(CriEvents, WhatNobodyCouldFollowIsToldToThoseWhoComeBack) {
  auto found = eventOf(Event::Kind::Stopped, 1);
  found.late = true;
  core_.tell(found);
  core_.tell(eventOf(Event::Kind::Created, 2));
  for (int i = 0; i < 3; ++i) {
    Follower follower(*runtime_);
    // The last is told once, to those that are there.
    core_.tell(eventOf(Event::Kind::Started, 3 + i));
    for (std::int64_t time : {1, 2, 3 + i}) {
      ASSERT_TRUE(follower.read());
      EXPECT_EQ(follower.event.created_at(), time);
    }
  }
}

TEST_F(CriEvents, OfWhatNobodyCouldFollowTheNewestAreKept) {
  for (int i = 1; i <= 1500; ++i) core_.tell(eventOf(Event::Kind::Started, i));
  Follower follower(*runtime_);
  for (int i = 501; i <= 1500; ++i) {
    ASSERT_TRUE(follower.read());
    ASSERT_EQ(follower.event.created_at(), i);
  }
}

TEST_F(CriEvents, ObjectsOfTheDesktopGiveNone) {
  Follower follower(*runtime_);
  auto hidden = eventOf(Event::Kind::Created, 1, makePod('b', Origin::Desktop));
  hidden.origin = Origin::Desktop;
  core_.tell(hidden);
  core_.tell(eventOf(Event::Kind::Created, 2));
  ASSERT_TRUE(follower.read());
  EXPECT_EQ(follower.event.created_at(), 2);
}

TEST_F(CriEvents, ASlowClientMissesTheOldestAndHoldsUpNobody) {
  constexpr int kEvents = 5000;
  auto pod = std::make_shared<PodRecord>(*makePod('a'));
  pod->config.annotations["big"] = std::string(16 * 1024, 'x');
  Follower slow(*runtime_);
  Follower quick(*runtime_);
  for (int i = 1; i <= kEvents; ++i) {
    core_.tell(eventOf(Event::Kind::Started, i, pod));
    ASSERT_TRUE(quick.read());
    ASSERT_EQ(quick.event.created_at(), i);
  }
  auto dropped = info().at("dropped").get<int>();
  EXPECT_GT(dropped, 1000);
  std::vector<std::int64_t> seen;
  for (int i = dropped; i < kEvents; ++i) {
    ASSERT_TRUE(slow.read());
    ASSERT_GT(slow.event.created_at(), seen.empty() ? 0 : seen.back());
    seen.push_back(slow.event.created_at());
  }
  EXPECT_EQ(seen.back(), kEvents);
  // The newest thousand are all there.
  EXPECT_EQ(seen[seen.size() - 1000], kEvents - 999);
  EXPECT_EQ(info().at("dropped"), dropped);
}

TEST_F(CriEvents, AnEventThatNoMessageHoldsIsCountedAsMissed) {
  Follower follower(*runtime_);
  auto event = eventOf(Event::Kind::Started, 1);
  for (int i = 0; i < 20; ++i) {
    auto big = containerOf(event.pod->id, '2', ContainerRecord::State::Running);
    big->config.annotations["big"] = std::string(tests::kMebibyte, 'x');
    event.containers.push_back(big);
  }
  core_.tell(event);
  core_.tell(eventOf(Event::Kind::Stopped, 2));
  ASSERT_TRUE(follower.read());
  EXPECT_EQ(follower.event.created_at(), 2);
  EXPECT_EQ(info().at("dropped"), 1);
}

TEST_F(CriEvents, AClientThatGoesAwayLeavesNothing) {
  Follower other(*runtime_);
  std::weak_ptr<const PodRecord> held;
  {
    Follower follower(*runtime_);
    auto pod = std::make_shared<PodRecord>(*makePod('a'));
    pod->config.annotations["big"] = std::string(16 * 1024, 'x');
    held = pod;
    for (int i = 1; i <= 2000; ++i) {
      core_.tell(eventOf(Event::Kind::Started, i, pod));
      ASSERT_TRUE(other.read());
    }
    EXPECT_FALSE(held.expired());
  }
  EXPECT_TRUE(comes([](const auto& info) { return info.at("clients") == 1; }));
  EXPECT_TRUE(comes([&](const auto&) { return held.expired(); }));
  core_.tell(eventOf(Event::Kind::Stopped, 5000));
  ASSERT_TRUE(other.read());
  EXPECT_EQ(other.event.created_at(), 5000);
}

TEST_F(CriEvents, TheDaemonsEndIsTheStreamsEnd) {
  Follower idle(*runtime_);
  auto pod = std::make_shared<PodRecord>(*makePod('a'));
  pod->config.annotations["big"] = std::string(64 * 1024, 'x');
  Follower stuck(*runtime_);
  for (int i = 1; i <= 500; ++i) {
    core_.tell(eventOf(Event::Kind::Started, i, pod));
    ASSERT_TRUE(idle.read());
  }
  auto begun = std::chrono::steady_clock::now();
  server_->stop(0ms);
  EXPECT_LT(std::chrono::steady_clock::now() - begun, 5s);
  EXPECT_FALSE(idle.read());
  auto status = idle.finish();
  EXPECT_EQ(status.error_code(), grpc::StatusCode::UNAVAILABLE);
  EXPECT_NE(status.error_message().find("stopping"), std::string::npos) << status.error_message();
  // The core may tell more, and nobody hears it.
  core_.tell(eventOf(Event::Kind::Stopped, 1000));
}

TEST_F(CriEvents, APodsStatusHasThoseOfItsContainersAndTheirTime) {
  auto big = containerOf(std::string(64, 'b'), '3', ContainerRecord::State::Running);
  big->config.annotations["big"] = std::string(9 * tests::kMebibyte, 'x');
  auto desktop = containerOf(std::string(64, 'a'), '4', ContainerRecord::State::Running);
  desktop->origin = Origin::Desktop;
  core_.set({makePod('a'), makePod('b')},
            {containerOf(std::string(64, 'a'), '1', ContainerRecord::State::Exited),
             containerOf(std::string(64, 'a'), '2', ContainerRecord::State::Running), big, desktop});
  auto status = [&](const std::string& id) {
    grpc::ClientContext context;
    v1::PodSandboxStatusRequest request;
    request.set_pod_sandbox_id(id);
    v1::PodSandboxStatusResponse response;
    EXPECT_TRUE(runtime_->PodSandboxStatus(&context, request, &response).ok());
    return response;
  };
  auto before = nowNanos();
  auto response = status("aa");
  EXPECT_GE(response.timestamp(), before);
  EXPECT_LE(response.timestamp(), nowNanos());
  ASSERT_EQ(response.containers_statuses_size(), 2);
  EXPECT_EQ(response.containers_statuses(0).id(), std::string(64, '1'));
  EXPECT_EQ(response.containers_statuses(0).state(), v1::CONTAINER_EXITED);
  // Too large for one answer: the client is told by the lack of a time to ask for each.
  response = status("bb");
  EXPECT_EQ(response.timestamp(), 0);
  EXPECT_EQ(response.containers_statuses_size(), 0);
  EXPECT_EQ(response.status().id(), std::string(64, 'b'));
}

}  // namespace
}  // namespace userpod

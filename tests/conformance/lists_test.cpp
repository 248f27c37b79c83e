// ListContainers and StreamContainers.
#include <set>

#include "tests/conformance/world.hpp"

namespace userpod::conformance {
namespace {

using Ids = std::set<std::string>;

// By the list and by the stream, which must agree.
Ids containers(const std::function<void(v1::ContainerFilter&)>& edit) {
  v1::ListContainersRequest list;
  edit(*list.mutable_filter());
  Ids ids;
  auto answer = call(list);
  for (const auto& item : answer.containers()) EXPECT_TRUE(ids.insert(item.id()).second) << "twice: " << item.id();
  v1::StreamContainersRequest stream;
  *stream.mutable_filter() = list.filter();
  Ids streamed;
  for (const auto& chunk : call(stream)) {
    EXPECT_GT(chunk.containers_size(), 0) << "an empty part of a stream";
    for (const auto& item : chunk.containers()) EXPECT_TRUE(streamed.insert(item.id()).second) << item.id();
  }
  EXPECT_EQ(streamed, ids);
  return ids;
}

auto labelled(const std::string& key, const std::string& value) {
  return [=](auto& config) { (*config.mutable_labels())[key] = value; };
}

}  // namespace

TEST(ListContainers, SelectsByIdAndPod) {
  PROMISE("1.1.12 filters");
  Pod pod, other;
  auto one = Container::created(pod), two = Container::created(pod), third = Container::created(other);
  EXPECT_EQ(containers([&](auto& f) { f.set_pod_sandbox_id(pod.id()); }), (Ids{one.id(), two.id()}));
  EXPECT_EQ(containers([&](auto& f) { f.set_id(one.id()); }), Ids{one.id()});
  EXPECT_EQ(containers([&](auto& f) { f.set_id(one.id().substr(0, 13)); }), Ids{one.id()});
  EXPECT_EQ(containers([&](auto& f) {
              f.set_id(one.id());
              f.set_pod_sandbox_id(other.id());
            }),
            Ids());
  EXPECT_EQ(containers([](auto& f) { f.set_id(std::string(64, 'a')); }), Ids());
  EXPECT_EQ(containers([](auto& f) { f.set_pod_sandbox_id(std::string(64, 'a')); }), Ids());
}

TEST(ListContainers, SelectsByState) {
  PROMISE("1.1.12 filters");
  Pod pod;
  auto created = Container::created(pod);
  Container running(pod), ended(pod, shell("exit 1"));
  ended.ended();
  auto inState = [&](v1::ContainerState state) {
    return containers([&](auto& f) {
      f.set_pod_sandbox_id(pod.id());
      f.mutable_state()->set_state(state);
    });
  };
  EXPECT_EQ(inState(v1::CONTAINER_CREATED), Ids{created.id()});
  EXPECT_EQ(inState(v1::CONTAINER_RUNNING), Ids{running.id()});
  EXPECT_EQ(inState(v1::CONTAINER_EXITED), Ids{ended.id()});
  EXPECT_EQ(inState(v1::CONTAINER_UNKNOWN), Ids());
  EXPECT_EQ(containers([&](auto& f) { f.set_pod_sandbox_id(pod.id()); }),
            (Ids{created.id(), running.id(), ended.id()}));
}

TEST(ListContainers, SelectsByAllLabels) {
  PROMISE("1.1.12 filters");
  auto group = uniqueName("group");
  Pod pod;
  auto a = Container::created(pod, labelled("group", group), labelled("app", "a"), labelled("tier", "x"));
  auto b = Container::created(pod, labelled("group", group), labelled("app", "b"), labelled("tier", "x"));
  auto with = [&](std::map<std::string, std::string> labels) {
    labels["group"] = group;
    return containers([&](auto& f) { f.mutable_label_selector()->insert(labels.begin(), labels.end()); });
  };
  EXPECT_EQ(with({}), (Ids{a.id(), b.id()}));
  EXPECT_EQ(with({{"tier", "x"}}), (Ids{a.id(), b.id()}));
  EXPECT_EQ(with({{"tier", "x"}, {"app", "b"}}), Ids{b.id()});
  EXPECT_EQ(with({{"tier", "y"}}), Ids());
}

TEST(ListContainers, WithoutFilterHasAllStates) {
  PROMISE("1.1.12 filters");
  Pod pod;
  auto created = Container::created(pod);
  Container ended(pod, shell("exit 0"));
  ended.ended();
  auto all = call(v1::ListContainersRequest());
  Ids ids;
  for (const auto& item : all.containers()) ids.insert(item.id());
  EXPECT_EQ(ids.count(created.id()), 1U);
  EXPECT_EQ(ids.count(ended.id()), 1U);
}

TEST(ListContainers, FollowsEachChangeAtOnce) {
  PROMISE("1.1.12 at once");
  Pod pod;
  auto state = [&](const std::string& id) {
    auto listed = call(with<v1::ListContainersRequest>([&](auto& r) { r.mutable_filter()->set_id(id); }));
    return listed.containers_size() == 1 ? static_cast<int>(listed.containers(0).state()) : -1;
  };
  for (int turn = 0; turn < 10; ++turn) {
    auto container = Container::created(pod);
    EXPECT_EQ(state(container.id()), v1::CONTAINER_CREATED);
    container.start();
    EXPECT_EQ(state(container.id()), v1::CONTAINER_RUNNING);
    container.stop();
    EXPECT_EQ(state(container.id()), v1::CONTAINER_EXITED);
    container.remove();
    EXPECT_EQ(state(container.id()), -1);
  }
}

}  // namespace userpod::conformance

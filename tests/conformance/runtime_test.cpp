// The runtime about itself.
#include <set>

#include "tests/conformance/world.hpp"

namespace userpod::conformance {
TEST(Version, HasItsFourFields) {
  PROMISE("1.1.1 version");
  auto version = call(v1::VersionRequest());
  EXPECT_EQ(version.version(), "0.1.0");
  EXPECT_EQ(version.runtime_api_version(), "v1");
  EXPECT_NE(version.runtime_name(), "");
  EXPECT_THAT(version.runtime_version(), testing::ContainsRegex("[0-9]+\\.[0-9]+\\.[0-9]+"));
}

TEST(Status, RuntimeAndNetworkAreReady) {
  PROMISE("1.1.28 conditions");
  auto status = call(v1::StatusRequest());
  std::map<std::string, bool> conditions;
  for (const auto& condition : status.status().conditions())
    EXPECT_TRUE(conditions.emplace(condition.type(), condition.status()).second) << condition.type();
  EXPECT_TRUE(conditions["RuntimeReady"]);
  EXPECT_TRUE(conditions["NetworkReady"]);
}

TEST(Status, NamesEachHandlerOnceAndTheDefault) {
  PROMISE("1.1.28 handlers");
  auto status = call(v1::StatusRequest());
  std::set<std::string> names;
  for (const auto& handler : status.runtime_handlers()) EXPECT_TRUE(names.insert(handler.name()).second);
  EXPECT_EQ(names.count(""), 1U);
  EXPECT_GE(names.size(), 2U) << "the default has no name of its own";
}

// Each feature that is told of works, and one that is not is refused with the word that kubelet knows.
TEST(Status, RecursiveReadOnlyMountsAreAsEachHandlerSays) {
  PROMISE("1.1.28 features");
  auto status = call(v1::StatusRequest());
  for (const auto& handler : status.runtime_handlers()) {
    Pod pod(podConfig(), handler.name());
    auto config = containerConfig(pod, [](auto& c) {
      auto* mount = c.add_mounts();
      mount->set_host_path(scratchDirectory());
      mount->set_container_path("/mnt");
      mount->set_readonly(true);
      mount->set_recursive_read_only(true);
    });
    auto made = attempt(createRequest(pod, config));
    EXPECT_EQ(made.status.ok(), handler.features().recursive_read_only_mounts())
        << handler.name() << ": " << made.status.error_message();
    if (!made.status.ok()) {
      EXPECT_THAT(made.status.error_message(), testing::HasSubstr("RROUnsupported"));
    }
  }
  EXPECT_TRUE(status.features().supplemental_groups_policy()) << "Strict works";
}

TEST(Status, InfoOnlyWhenVerbose) {
  PROMISE("1.1.28 info");
  EXPECT_EQ(call(v1::StatusRequest()).info_size(), 0);
  auto verbose = call(with<v1::StatusRequest>([](auto& r) { r.set_verbose(true); }));
  ASSERT_EQ(verbose.info().count("config"), 1U);
  EXPECT_TRUE(nlohmann::json::parse(verbose.info().at("config")).is_object());
}

TEST(RuntimeConfig, NamesTheCgroupDriver) {
  PROMISE("1.1.34 driver");
  auto config = call(v1::RuntimeConfigRequest());
  ASSERT_TRUE(config.has_linux());
  Pod pod;
  Container container(pod);
  bool slices = cgroupOf(container.pid()).find(".slice") != std::string::npos;
  EXPECT_EQ(config.linux().cgroup_driver(), slices ? v1::SYSTEMD : v1::CGROUPFS);
}

TEST(UpdateRuntimeConfig, IsTaken) {
  PROMISE("1.1.27 taken");
  call(v1::UpdateRuntimeConfigRequest());
  call(with<v1::UpdateRuntimeConfigRequest>(
      [](auto& r) { r.mutable_runtime_config()->mutable_network_config()->set_pod_cidr("10.1.0.0/16"); }));
}

TEST(Checkpoints, AreUnimplementedAndSaySo) {
  PROMISE("1.1.29 unimplemented");
  Pod pod;
  Container container(pod);
  expectFailure(ofContainer<v1::CheckpointContainerRequest>(container.id()), {StatusCode::UNIMPLEMENTED});
  expectFailure(ofPod<v1::CheckpointPodRequest>(pod.id()), {StatusCode::UNIMPLEMENTED});
  expectFailure(v1::RestorePodRequest(), {StatusCode::UNIMPLEMENTED});
  EXPECT_EQ(container.state(), v1::CONTAINER_RUNNING);
}

}  // namespace userpod::conformance

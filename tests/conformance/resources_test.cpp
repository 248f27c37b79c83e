// CreateContainer and UpdateContainerResources: limits, in the files of the control group and in effect.
#include <algorithm>
#include <filesystem>

#include "tests/conformance/edits.hpp"

namespace userpod::conformance {
namespace {

using Resources = v1::LinuxContainerResources;
constexpr std::int64_t kMiB = 1 << 20;

Edit resources(const std::function<void(Resources&)>& edit) {
  return [edit](Config& c) { edit(*c.mutable_linux()->mutable_resources()); };
}
Edit memoryLimit(std::int64_t bytes) {
  return resources([bytes](Resources& r) { r.set_memory_limit_in_bytes(bytes); });
}

// A file of the container's control group, without its last newline.
std::string limit(const Container& container, const std::string& file) {
  auto text = readFile(cgroupOf(container.pid()) + "/" + file);
  return text.substr(0, text.find_last_not_of('\n') + 1);
}
bool hasFile(const Container& container, const std::string& file) {
  return std::filesystem::exists(cgroupOf(container.pid()) + "/" + file);
}

auto updateRequest(const Container& container, const std::function<void(Resources&)>& edit) {
  return with<v1::UpdateContainerResourcesRequest>([&](auto& r) {
    r.set_container_id(container.id());
    edit(*r.mutable_linux());
  });
}
void update(const Container& container, const std::function<void(Resources&)>& edit) {
  call(updateRequest(container, edit));
}
Resources shown(const Container& container) {
  return container.status().resources().linux();
}

// In a test: leaves it where the container has no such controller.
#define NEEDS_CONTROLLER(container, name) \
  if (!hasController(container, name)) GTEST_SKIP() << "the " << (name) << " controller is not delegated here"

}  // namespace

TEST(CreateContainer, CpuQuotaAndPeriodAreInForce) {
  PROMISE("1.3 resources cpu");
  Pod pod;
  Container container(pod, resources([](Resources& r) {
                        r.set_cpu_quota(20000);
                        r.set_cpu_period(50000);
                      }));
  NEEDS_CONTROLLER(container, "cpu");
  EXPECT_EQ(limit(container, "cpu.max"), "20000 50000");
  EXPECT_EQ(shown(container).cpu_quota(), 20000);
  EXPECT_EQ(shown(container).cpu_period(), 50000);
}

TEST(CreateContainer, CpuSharesBecomeAWeight) {
  PROMISE("1.3 resources cpu");
  Pod pod;
  auto shares = [](std::int64_t value) { return resources([value](Resources& r) { r.set_cpu_shares(value); }); };
  Container least(pod, shares(2)), some(pod, shares(512)), most(pod, shares(262144));
  NEEDS_CONTROLLER(least, "cpu");
  EXPECT_EQ(limit(least, "cpu.weight"), "1");
  EXPECT_EQ(limit(most, "cpu.weight"), "10000");
  auto between = std::stoi(limit(some, "cpu.weight"));
  EXPECT_GE(between, 15);
  EXPECT_LE(between, 70);
  EXPECT_EQ(shown(some).cpu_shares(), 512);
}

TEST(CreateContainer, MemoryLimitIsInForceAndLeavesNoSwap) {
  PROMISE("1.3 resources memory");
  Pod pod;
  Container container(pod, memoryLimit(64 * kMiB));
  NEEDS_CONTROLLER(container, "memory");
  EXPECT_EQ(limit(container, "memory.max"), std::to_string(64 * kMiB));
  if (hasFile(container, "memory.swap.max")) {
    EXPECT_EQ(limit(container, "memory.swap.max"), "0");
  }
  EXPECT_EQ(shown(container).memory_limit_in_bytes(), 64 * kMiB);
}

TEST(CreateContainer, SwapLimitCountsMemoryAndSwapTogether) {
  PROMISE("1.3 resources swap");
  Pod pod;
  auto swap = [](std::int64_t value) {
    return resources([value](Resources& r) { r.set_memory_swap_limit_in_bytes(value); });
  };
  Container some(pod, memoryLimit(64 * kMiB), swap(96 * kMiB)), all(pod, memoryLimit(64 * kMiB), swap(-1));
  NEEDS_CONTROLLER(some, "memory");
  if (!hasFile(some, "memory.swap.max")) GTEST_SKIP() << "this kernel counts no swap";
  EXPECT_EQ(limit(some, "memory.swap.max"), std::to_string(32 * kMiB));
  EXPECT_EQ(limit(all, "memory.swap.max"), "max");
  EXPECT_EQ(shown(some).memory_swap_limit_in_bytes(), 96 * kMiB);
}

TEST(CreateContainer, CpusetIsInForce) {
  PROMISE("1.3 resources cpuset");
  Pod pod;
  Container container(pod, resources([](Resources& r) {
                        r.set_cpuset_cpus("0");
                        r.set_cpuset_mems("0");
                      }));
  NEEDS_CONTROLLER(container, "cpuset");
  EXPECT_EQ(limit(container, "cpuset.cpus"), "0");
  EXPECT_EQ(limit(container, "cpuset.mems"), "0");
  EXPECT_EQ(shown(container).cpuset_cpus(), "0");
  EXPECT_EQ(shown(container).cpuset_mems(), "0");
}

TEST(CreateContainer, UnifiedKeysAreWritten) {
  PROMISE("1.3 resources unified");
  Pod pod;
  Container container(pod, resources([](Resources& r) {
                        (*r.mutable_unified())["memory.high"] = std::to_string(32 * kMiB);
                        (*r.mutable_unified())["pids.max"] = "77";
                      }));
  NEEDS_CONTROLLER(container, "memory");
  NEEDS_CONTROLLER(container, "pids");
  EXPECT_EQ(limit(container, "memory.high"), std::to_string(32 * kMiB));
  EXPECT_EQ(limit(container, "pids.max"), "77");
  EXPECT_EQ(shown(container).unified().at("memory.high"), std::to_string(32 * kMiB));
}

TEST(CreateContainer, UnifiedKeysThatAreNoFilesAreRefused) {
  PROMISE("1.3 resources unified");
  Pod pod;
  for (const auto* key : {"../../x.y", "memory/high", "", "nodot"})
    expectRefused(pod, {}, "unified", resources([&](Resources& r) { (*r.mutable_unified())[key] = "1"; }));
}

TEST(CreateContainer, NegativeLimitsAreRefused) {
  PROMISE("1.3 resources wrong");
  Pod pod;
  expectRefused(pod, {}, "cpu_shares", resources([](Resources& r) { r.set_cpu_shares(-1); }));
  expectRefused(pod, {}, "cpu_period", resources([](Resources& r) { r.set_cpu_period(-5); }));
  expectRefused(pod, {}, "memory_limit", memoryLimit(-5));
  expectRefused(pod, {}, "cpuset_cpus", resources([](Resources& r) { r.set_cpuset_cpus("first"); }));
}

TEST(CreateContainer, OomScoreAdjIsSetAndShown) {
  PROMISE("1.3 resources oom_score_adj");
  Pod pod;
  Container container(pod, resources([](Resources& r) { r.set_oom_score_adj(567); }));
  EXPECT_EQ(container.up().text("cat /proc/1/oom_score_adj"), "567");
  EXPECT_EQ(shown(container).oom_score_adj(), 567);
}

// No lower than the kernel lets this user: clamped, not refused, and told as it is.
TEST(CreateContainer, OomScoreAdjIsClampedToWhatMayBe) {
  PROMISE("1.3 resources oom_score_adj");
  Pod pod;
  Container container(pod, resources([](Resources& r) { r.set_oom_score_adj(-998); }));
  auto real = std::stoi(container.up().text("cat /proc/1/oom_score_adj"));
  EXPECT_GE(real, -998);
  EXPECT_LE(real, std::max(-998, std::stoi(readFile("/proc/self/oom_score_adj"))));
  EXPECT_EQ(shown(container).oom_score_adj(), real);
}

TEST(CreateContainer, HugepagesOfZeroAreIgnored) {
  PROMISE("1.3 resources hugepages");
  Pod pod;
  Container container(pod, resources([](Resources& r) { r.add_hugepage_limits()->set_page_size("2MB"); }));
  EXPECT_EQ(container.up().text("echo runs"), "runs");
}

TEST(CreateContainer, HugepagesAreLimitedOrRefusedByName) {
  PROMISE("1.3 resources hugepages");
  Pod pod;
  auto config = containerConfig(pod, resources([](Resources& r) {
                                  r.add_hugepage_limits()->set_page_size("2MB");
                                  r.mutable_hugepage_limits(0)->set_limit(4 * kMiB);
                                }));
  auto answer = attempt(createRequest(pod, config));
  if (!answer.status.ok()) {
    EXPECT_NE(answer.status.error_message().find("huge"), std::string::npos) << answer.status.error_message();
    return;
  }
  removeContainer(answer.value.container_id());
  EXPECT_EQ(limit(Container(pod, config, Start::Yes), "hugetlb.2MB.max"), std::to_string(4 * kMiB));
}

// What is not in force must not be told as if it were.
TEST(CreateContainer, LimitsAreShownOnlyWhereTheyAreInForce) {
  PROMISE("1.3 resources truth");
  Pod pod;
  Container container(pod, memoryLimit(64 * kMiB), resources([](Resources& r) {
                        r.set_cpu_quota(20000);
                        r.set_cpu_period(100000);
                        r.set_cpuset_cpus("0");
                      }));
  auto told = shown(container);
  EXPECT_EQ(told.memory_limit_in_bytes(), hasController(container, "memory") ? 64 * kMiB : 0);
  EXPECT_EQ(told.cpu_quota(), hasController(container, "cpu") ? 20000 : 0);
  EXPECT_EQ(told.cpuset_cpus(), hasController(container, "cpuset") ? "0" : "");
}

TEST(CreateContainer, LimitOfProcessesHolds) {
  PROMISE("1.3 resources pids");
  Pod pod;
  Container container(pod, resources([](Resources& r) { (*r.mutable_unified())["pids.max"] = "6"; }));
  NEEDS_CONTROLLER(container, "pids");
  auto ended = runToEnd(pod, resources([](Resources& r) { (*r.mutable_unified())["pids.max"] = "6"; }),
                        shell("for i in 1 2 3 4 5 6 7 8; do sleep 5 & done; echo all"));
  EXPECT_NE(ended.err.find("can't fork"), std::string::npos) << ended.out << ended.err;
}

TEST(ContainerStatus, KilledForWantOfMemoryIsOomKilledWith137) {
  PROMISE("1.1.14 OOMKilled");
  Pod pod;
  {
    Container probe(pod);
    NEEDS_CONTROLLER(probe, "memory");
  }
  auto status =
      runToEnd(pod, memoryLimit(20 * kMiB), command({"dd", "if=/dev/zero", "of=/dev/null", "bs=100M", "count=1"}))
          .status;
  EXPECT_EQ(status.reason(), "OOMKilled");
  EXPECT_EQ(status.exit_code(), 137);
}

// ---- UpdateContainerResources

TEST(UpdateContainerResources, ChangesTheFilesAndTheStatus) {
  PROMISE("1.1.15 update");
  Pod pod;
  Container container(pod, memoryLimit(64 * kMiB));
  NEEDS_CONTROLLER(container, "memory");
  NEEDS_CONTROLLER(container, "cpu");
  update(container, [](Resources& r) {
    r.set_memory_limit_in_bytes(96 * kMiB);
    r.set_cpu_quota(30000);
    r.set_cpu_period(100000);
    r.set_cpu_shares(2);
  });
  EXPECT_EQ(limit(container, "memory.max"), std::to_string(96 * kMiB));
  EXPECT_EQ(limit(container, "cpu.max"), "30000 100000");
  EXPECT_EQ(limit(container, "cpu.weight"), "1");
  auto told = shown(container);
  EXPECT_EQ(told.memory_limit_in_bytes(), 96 * kMiB);
  EXPECT_EQ(told.cpu_quota(), 30000);
  EXPECT_EQ(told.cpu_period(), 100000);
  EXPECT_EQ(told.cpu_shares(), 2);
  EXPECT_EQ(container.state(), v1::CONTAINER_RUNNING);
}

TEST(UpdateContainerResources, LeavesWhatIsNotSaid) {
  PROMISE("1.1.15 update kept");
  Pod pod;
  Container container(pod, memoryLimit(64 * kMiB), resources([](Resources& r) {
                        r.set_cpu_quota(20000);
                        r.set_cpu_period(100000);
                      }));
  NEEDS_CONTROLLER(container, "memory");
  NEEDS_CONTROLLER(container, "cpu");
  update(container, [](Resources& r) { r.set_cpu_shares(512); });
  EXPECT_EQ(limit(container, "memory.max"), std::to_string(64 * kMiB));
  EXPECT_EQ(limit(container, "cpu.max"), "20000 100000");
  EXPECT_EQ(shown(container).memory_limit_in_bytes(), 64 * kMiB);
  EXPECT_EQ(shown(container).cpu_quota(), 20000);
}

TEST(UpdateContainerResources, WritesUnifiedKeys) {
  PROMISE("1.1.15 update unified");
  Pod pod;
  Container container(pod);
  NEEDS_CONTROLLER(container, "memory");
  update(container, [](Resources& r) { (*r.mutable_unified())["memory.high"] = std::to_string(48 * kMiB); });
  EXPECT_EQ(limit(container, "memory.high"), std::to_string(48 * kMiB));
  EXPECT_EQ(shown(container).unified().at("memory.high"), std::to_string(48 * kMiB));
}

TEST(UpdateContainerResources, IsAllOrNothing) {
  PROMISE("1.1.15 update whole");
  Pod pod;
  Container container(pod, memoryLimit(64 * kMiB), resources([](Resources& r) { r.set_cpu_shares(512); }));
  NEEDS_CONTROLLER(container, "memory");
  NEEDS_CONTROLLER(container, "cpu");
  auto weight = limit(container, "cpu.weight");
  expectFailure(updateRequest(container,
                              [](Resources& r) {
                                r.set_cpu_shares(2);
                                r.set_memory_limit_in_bytes(96 * kMiB);
                                (*r.mutable_unified())["memory.nonsense"] = "1";
                              }),
                {}, "memory.nonsense");
  EXPECT_EQ(limit(container, "cpu.weight"), weight);
  EXPECT_EQ(limit(container, "memory.max"), std::to_string(64 * kMiB));
  EXPECT_EQ(shown(container).cpu_shares(), 512);
  EXPECT_EQ(shown(container).memory_limit_in_bytes(), 64 * kMiB);
  EXPECT_EQ(shown(container).unified().count("memory.nonsense"), 0U);
}

TEST(UpdateContainerResources, RefusesMemoryBelowWhatIsUsed) {
  PROMISE("1.1.15 update below");
  Pod pod;
  Container container(pod, memoryLimit(96 * kMiB));
  NEEDS_CONTROLLER(container, "memory");
  container.up().text("dd if=/dev/zero of=/dev/shm/fill bs=1M count=40 2>/dev/null");
  expectFailure(updateRequest(container, [](Resources& r) { r.set_memory_limit_in_bytes(8 * kMiB); }), {}, "memory");
  EXPECT_EQ(limit(container, "memory.max"), std::to_string(96 * kMiB));
  EXPECT_EQ(shown(container).memory_limit_in_bytes(), 96 * kMiB);
  EXPECT_EQ(container.state(), v1::CONTAINER_RUNNING);
}

TEST(UpdateContainerResources, RefusesWhatNoLimitCanBe) {
  PROMISE("1.1.15 update wrong");
  Pod pod;
  Container container(pod);
  expectFailure(updateRequest(container, [](Resources& r) { r.set_memory_limit_in_bytes(-7); }), {}, "memory");
  expectFailure(updateRequest(container, [](Resources& r) { r.set_cpu_period(-7); }), {}, "cpu_period");
  expectFailure(updateRequest(container, [](Resources& r) { r.set_cpuset_cpus("none"); }), {}, "cpuset");
  EXPECT_EQ(container.state(), v1::CONTAINER_RUNNING);
}

TEST(UpdateContainerResources, WorksBeforeTheStart) {
  PROMISE("1.1.15 update created");
  Pod pod;
  {
    Container probe(pod);
    NEEDS_CONTROLLER(probe, "memory");
  }
  auto container = Container::created(pod, memoryLimit(64 * kMiB));
  update(container, [](Resources& r) { r.set_memory_limit_in_bytes(96 * kMiB); });
  container.start();
  EXPECT_EQ(limit(container, "memory.max"), std::to_string(96 * kMiB));
  EXPECT_EQ(shown(container).memory_limit_in_bytes(), 96 * kMiB);
}

TEST(UpdateContainerResources, FailsWhenTheContainerHasEnded) {
  PROMISE("1.1.15 update ended");
  Pod pod;
  Container container(pod, command({"true"}));
  container.ended();
  expectFailure(updateRequest(container, [](Resources& r) { r.set_cpu_shares(512); }));
}

TEST(UpdateContainerResources, FailsForAnUnknownContainer) {
  PROMISE("1.1.15 update unknown");
  for (auto id : {std::string(64, '0'), std::string()})
    expectFailure(with<v1::UpdateContainerResourcesRequest>([&](auto& r) {
      r.set_container_id(id);
      r.mutable_linux()->set_cpu_shares(512);
    }));
}

TEST(UpdateContainerResources, FailsWithoutTheController) {
  PROMISE("1.1.15 update controller");
  Pod pod;
  Container container(pod);
  if (hasController(container, "cpu")) GTEST_SKIP() << "the cpu controller is there";
  expectFailure(updateRequest(container, [](Resources& r) { r.set_cpu_shares(512); }), {}, "cpu");
  EXPECT_EQ(shown(container).cpu_shares(), 0);
}

}  // namespace userpod::conformance

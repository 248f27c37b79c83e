#include <gtest/gtest.h>

#include <filesystem>

#include "daemon/oci/limits.hpp"
#include "daemon/oci/oci.hpp"
#include "daemon/sys/fd.hpp"

namespace userpod::oci {
namespace {

TEST(CpuWeight, AsTheRuntimesComputeIt) {
  EXPECT_EQ(cpuWeight(2), 1);
  EXPECT_EQ(cpuWeight(512), 20);
  EXPECT_EQ(cpuWeight(1024), 39);
  EXPECT_EQ(cpuWeight(262144), 10000);
  EXPECT_EQ(cpuWeight(0), 1);
  EXPECT_EQ(cpuWeight(std::int64_t{1} << 62), 10000);
}

TEST(PodLimits, ContainersAndOverheadTogether) {
  PodConfig pod;
  EXPECT_EQ(podLimits(pod).cpuShares, 0);
  pod.overhead = Resources{};
  pod.overhead->cpuShares = 100;
  pod.overhead->cpuQuota = 10000;
  pod.overhead->cpuPeriod = 100000;
  pod.overhead->memoryLimit = 8 << 20;
  Resources alone = podLimits(pod);
  EXPECT_EQ(alone.cpuShares, 100);
  EXPECT_EQ(alone.cpuQuota, 0);
  EXPECT_EQ(alone.memoryLimit, 0);
  pod.resources = Resources{};
  pod.resources->cpuQuota = 20000;
  pod.resources->cpuPeriod = 50000;
  pod.resources->memoryLimit = 64 << 20;
  Resources sum = podLimits(pod);
  EXPECT_EQ(sum.cpuQuota, 25000);
  EXPECT_EQ(sum.cpuPeriod, 50000);
  EXPECT_EQ(sum.memoryLimit, 72 << 20);
  EXPECT_EQ(sum.memorySwapLimit, -1);
  pod.resources->memorySwapLimit = 64 << 20;
  EXPECT_EQ(podLimits(pod).memorySwapLimit, 72 << 20);
}

TEST(DropUnenforceable, TakesOutWhatHasNoController) {
  Resources limits;
  limits.cpuShares = 512;
  limits.cpuQuota = 20000;
  limits.cpuPeriod = 50000;
  limits.cpusetCpus = "0";
  limits.memoryLimit = 64 << 20;
  limits.memorySwapLimit = 65 << 20;
  limits.unified = {{"pids.max", "20"}, {"cgroup.max.depth", "3"}};
  limits.hugepageLimits = {{"2MB", 0}};
  std::vector<std::string> warnings;
  Resources left = limits;
  ASSERT_TRUE(dropUnenforceable("memory", left, warnings));
  EXPECT_EQ(warnings.size(), 4U);
  EXPECT_EQ(left.cpuShares + left.cpuQuota + left.cpuPeriod, 0);
  EXPECT_EQ(left.cpusetCpus, "");
  EXPECT_EQ(left.memorySwapLimit, 65 << 20);
  EXPECT_EQ(left.unified, (StringMap{{"cgroup.max.depth", "3"}}));
  EXPECT_TRUE(left.hugepageLimits.empty());
  limits.hugepageLimits = {{"2MB", 1}};
  EXPECT_FALSE(dropUnenforceable("memory", limits, warnings));
}

// The files of a cgroup, without a kernel behind them: what is written, in which order of failure.
class UpdateResources : public testing::Test {
 protected:
  UpdateResources() {
    EXPECT_NE(::mkdtemp(root_.data()), nullptr);
    std::filesystem::create_directories(root_ + "/pods/c");
    for (const auto& [name, value] : std::vector<std::pair<std::string, std::string>>{{"cpu.weight", "20\n"},
                                                                                      {"cpu.max", "20000 50000\n"},
                                                                                      {"memory.max", "67108864\n"},
                                                                                      {"memory.swap.max", "0\n"},
                                                                                      {"memory.current", "4194304\n"},
                                                                                      {"memory.high", "max\n"},
                                                                                      {"pids.max", "20\n"}})
      EXPECT_TRUE(writeFile(root_ + "/pods/c/" + name, value));
    node_.cgroupRoot = root_;
    node_.controllers = "cpu memory pids";
    current_.cpuShares = 512;
    current_.cpuQuota = 20000;
    current_.cpuPeriod = 50000;
    current_.memoryLimit = 64 << 20;
    current_.unified = {{"memory.high", "max"}};
  }
  ~UpdateResources() override { std::filesystem::remove_all(root_); }

  Result<Resources> update() { return updateResources(node_, "/pods/c", current_, wanted_); }
  std::string file(const std::string& name) { return *readFile(root_ + "/pods/c/" + name); }
  // Fails so, and all files are as before.
  void refused(Code code, const std::string& word) {
    auto result = update();
    ASSERT_FALSE(result);
    EXPECT_EQ(result.error().code(), code) << result.error().text();
    EXPECT_NE(result.error().text().find(word), std::string::npos) << result.error().text();
    EXPECT_EQ(file("cpu.weight"), "20\n");
    EXPECT_EQ(file("cpu.max"), "20000 50000\n");
    EXPECT_EQ(file("memory.max"), "67108864\n");
    EXPECT_EQ(file("memory.swap.max"), "0\n");
    EXPECT_EQ(file("pids.max"), "20\n");
    wanted_ = {};
  }

  std::string root_ = "/var/tmp/userpod-limits-XXXXXX";
  NodeInside node_;
  Resources current_;
  Resources wanted_;
};

TEST_F(UpdateResources, WhatIsNotSaidStays) {
  wanted_.cpuQuota = 30000;
  wanted_.unified = {{"pids.max", "30"}};
  auto result = update();
  ASSERT_TRUE(result) << result.error().text();
  EXPECT_EQ(file("cpu.max"), "30000 50000");
  EXPECT_EQ(file("pids.max"), "30");
  EXPECT_EQ(file("cpu.weight"), "20\n");
  EXPECT_EQ(file("memory.max"), "67108864\n");
  EXPECT_EQ(result->cpuShares, 512);
  EXPECT_EQ(result->cpuQuota, 30000);
  EXPECT_EQ(result->memoryLimit, 64 << 20);
  EXPECT_EQ(result->unified, (StringMap{{"memory.high", "max"}, {"pids.max", "30"}}));
}

TEST_F(UpdateResources, MemoryAndSwap) {
  wanted_.memoryLimit = 32 << 20;
  ASSERT_TRUE(update());
  EXPECT_EQ(file("memory.max"), "33554432");
  EXPECT_EQ(file("memory.swap.max"), "0");
  wanted_.memorySwapLimit = 33 << 20;
  ASSERT_TRUE(update());
  EXPECT_EQ(file("memory.swap.max"), "1048576");
  wanted_.memorySwapLimit = -1;
  ASSERT_TRUE(update());
  EXPECT_EQ(file("memory.swap.max"), "max");
  wanted_.cpuQuota = -1;
  ASSERT_TRUE(update());
  EXPECT_EQ(file("cpu.max"), "max 50000");
}

TEST_F(UpdateResources, AllOrNothing) {
  wanted_.cpuShares = 2048;
  wanted_.memoryLimit = 96 << 20;
  wanted_.unified = {{"pids.max", "30"}, {"pids.none", "1"}};
  refused(Code::InvalidArgument, "pids.none");
}

TEST_F(UpdateResources, RefusesByName) {
  wanted_.memoryLimit = 1 << 20;
  refused(Code::InvalidArgument, "below the 4194304 bytes in use");
  wanted_.memoryLimit = -1;
  refused(Code::InvalidArgument, "memory_limit_in_bytes");
  wanted_.unified = {{"memory.max", "4096"}};
  refused(Code::InvalidArgument, "in use");
  wanted_.memorySwapLimit = 1 << 20;
  refused(Code::InvalidArgument, "memory_swap_limit_in_bytes");
  wanted_.hugepageLimits = {{"2MB", 1}};
  refused(Code::NotSupported, "2MB");
  wanted_.unified = {{"../escape", "1"}};
  refused(Code::InvalidArgument, "escape");
  wanted_.cpusetCpus = "0";
  refused(Code::CgroupDelegationMissing, "cpuset controller is not delegated");
  node_.controllers = "memory";
  wanted_.cpuShares = 1024;
  refused(Code::CgroupDelegationMissing, "cpu controller is not delegated");
}

}  // namespace
}  // namespace userpod::oci

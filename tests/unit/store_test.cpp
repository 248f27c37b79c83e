#include <gtest/gtest.h>
#include <sys/resource.h>

#include <csignal>

#include "daemon/store/live_store.hpp"
#include "daemon/sys/fd.hpp"

namespace userpod::store {
namespace {

class LiveStoreTest : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string name = ::testing::TempDir() + "/store-XXXXXX";
    directory_ = ::mkdtemp(name.data());
    path_ = directory_ + "/live.db";
  }
  void TearDown() override { EXPECT_TRUE(removeTree(directory_)); }
  std::string directory_, path_;
};

ContainerRecord sample() {
  ContainerRecord record;
  record.id = std::string(64, 'a');
  record.config.name = "web";
  record.config.environment = {{"BYTES", std::string("\xff\xfe\0x", 4)}};
  record.config.resources = Resources{.memoryLimit = 42};
  record.config.annotations["io.kubernetes.pod.terminationGracePeriod"] = "7";
  record.state = ContainerRecord::State::Running;
  record.pid = 77;
  record.pidStart = 123456;
  record.stopSignal = 3;
  return record;
}

TEST_F(LiveStoreTest, KeepsRecordsByteForByte) {
  {
    auto store = LiveStore::open(path_);
    ASSERT_TRUE(store) << store.error().text();
    ASSERT_TRUE((*store)->putContainer(sample()));
    PodRecord pod;
    pod.id = "p";
    pod.config.labels["a"] = "b";
    pod.config.dns = DnsConfig{{"192.0.2.1"}, {}, {}};
    ASSERT_TRUE((*store)->putPod(pod));
  }
  auto store = LiveStore::open(path_);
  auto content = (*store)->load();
  ASSERT_TRUE(content);
  ASSERT_EQ(content->containers.size(), 1U);
  EXPECT_EQ(content->containers[0].config.environment, sample().config.environment);
  EXPECT_EQ(content->containers[0].config.resources->memoryLimit, 42);
  EXPECT_FALSE(content->containers[0].config.security.seccomp);
  ASSERT_EQ(content->pods.size(), 1U);
  EXPECT_EQ(content->pods[0].config.dns->servers.at(0), "192.0.2.1");
  ASSERT_TRUE((*store)->removeContainer(sample().id));
  EXPECT_TRUE((*store)->load()->containers.empty());
}

TEST_F(LiveStoreTest, TellsTheDrainWhatRuns) {
  Paths paths;
  paths.runtime = directory_;
  EXPECT_TRUE(drainTargets(paths)->empty());
  auto store = LiveStore::open(path_);
  ASSERT_TRUE((*store)->putContainer(sample()));
  ContainerRecord ended = sample();
  ended.id = std::string(64, 'b');
  ended.state = ContainerRecord::State::Exited;
  ASSERT_TRUE((*store)->putContainer(ended));
  auto targets = drainTargets(paths);
  ASSERT_TRUE(targets) << targets.error().text();
  ASSERT_EQ(targets->size(), 1U);
  EXPECT_EQ(targets->at(0).pid, 77);
  EXPECT_EQ(targets->at(0).pidStart, 123456U);
  EXPECT_EQ(targets->at(0).stopSignal, 3);
  EXPECT_EQ(targets->at(0).grace, std::chrono::seconds(7));
}

TEST_F(LiveStoreTest, SetsADamagedFileAside) {
  ASSERT_TRUE(writeFile(path_, std::string(8192, 'x')));
  auto store = LiveStore::open(path_);
  ASSERT_TRUE(store) << store.error().text();
  EXPECT_TRUE((*store)->load()->containers.empty());
  EXPECT_TRUE(pathExists(path_ + ".damaged"));
}

TEST_F(LiveStoreTest, IsWrittenAnewFromMemory) {
  auto store = LiveStore::open(path_);
  ASSERT_TRUE(store) << store.error().text();
  LiveStore::Content content;
  content.containers = {sample()};
  ASSERT_TRUE((*store)->replace(content));
  // Where the new one cannot be written, the old one stays as it is.
  ::signal(SIGXFSZ, SIG_IGN);
  rlimit before{};
  ASSERT_EQ(::getrlimit(RLIMIT_FSIZE, &before), 0);
  rlimit full{.rlim_cur = 4096, .rlim_max = before.rlim_max};
  ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &full), 0);
  EXPECT_FALSE((*store)->rebuild({}));
  ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &before), 0);
  EXPECT_EQ(LiveStore::read(path_)->containers.size(), 1U);
  EXPECT_FALSE(pathExists(path_ + ".new"));
  ASSERT_TRUE(writeFile(path_, std::string(8192, 'x')));
  auto rebuilt = (*store)->rebuild(content);
  ASSERT_TRUE(rebuilt) << rebuilt.error().text();
  EXPECT_FALSE(pathExists(path_ + ".new"));
  EXPECT_EQ(LiveStore::read(path_)->containers.size(), 1U);
  // What is written afterwards is in the file too, for a reader of its own and for the next daemon.
  ASSERT_TRUE((*store)->removeContainer(sample().id));
  EXPECT_TRUE(LiveStore::read(path_)->containers.empty());
  ASSERT_TRUE(removeTree(path_));
  ASSERT_TRUE((*store)->rebuild(content));
  EXPECT_TRUE(checkDatabase(path_, true));
  EXPECT_EQ(LiveStore::read(path_)->containers.size(), 1U);
}

TEST(StopGrace, ComesFromKubeletsAnnotation) {
  ContainerConfig config;
  EXPECT_EQ(stopGrace(config), std::chrono::seconds(10));
  config.annotations["io.kubernetes.pod.terminationGracePeriod"] = "30";
  EXPECT_EQ(stopGrace(config), std::chrono::seconds(30));
  config.annotations["io.kubernetes.pod.terminationGracePeriod"] = "-5";
  EXPECT_EQ(stopGrace(config), std::chrono::seconds(10));
}

}  // namespace
}  // namespace userpod::store

#include <gtest/gtest.h>
#include <signal.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <filesystem>
#include <thread>

#include "daemon/sys/child.hpp"
#include "userns/broker.hpp"
#include "userns/drain.hpp"
#include "userns/idmap.hpp"
#include "userns/node.hpp"
#include "userns/uplink.hpp"

namespace userpod {
namespace {

std::vector<std::vector<std::uint64_t>> rows(const std::vector<IdMapping>& map) {
  std::vector<std::vector<std::uint64_t>> list;
  for (const auto& line : map) list.push_back({line.inside, line.outside, line.count});
  return list;
}
using Rows = std::vector<std::vector<std::uint64_t>>;

TEST(IdMap, OwnIdIsRootAndRangesFollowWithoutGaps) {
  EXPECT_EQ(rows(composeIdMap(1000, {{100000, 65536}})), (Rows{{0, 1000, 1}, {1, 100000, 65536}}));
  EXPECT_EQ(rows(composeIdMap(1000, {{300000, 10}, {100000, 65536}})),
            (Rows{{0, 1000, 1}, {1, 300000, 10}, {11, 100000, 65536}}));
}

TEST(IdMap, PartsThatComeTwiceAreMappedOnce) {
  EXPECT_EQ(rows(composeIdMap(1000, {{100, 50}, {120, 50}})), (Rows{{0, 1000, 1}, {1, 100, 50}, {51, 150, 20}}));
  EXPECT_EQ(rows(composeIdMap(1000, {{100, 50}, {100, 50}})), (Rows{{0, 1000, 1}, {1, 100, 50}}));
  // A range around the own id: the id itself is 0 already.
  EXPECT_EQ(rows(composeIdMap(1000, {{999, 3}})), (Rows{{0, 1000, 1}, {1, 999, 1}, {2, 1001, 1}}));
}

TEST(IdMap, StaysWithinTheKernelsLimits) {
  std::vector<IdRange> many;
  for (std::uint64_t i = 0; i < 500; ++i) many.push_back({100000 + i * 20, 10});
  EXPECT_EQ(composeIdMap(1000, many).size(), 340U);
  auto huge = composeIdMap(1000, {{100000, 1ULL << 40}, {5, 10}});
  EXPECT_EQ(huge[1].count, 0xffffffffULL - 100000);
  EXPECT_LE(huge.back().inside + huge.back().count, 0xffffffffULL);
  EXPECT_TRUE(composeIdMap(1000, {{1ULL << 33, 10}}).size() == 1);
}

TEST(HolderState, ReadsWhatItWrites) {
  HolderState state{4711, 123456789, "abc", "/user.slice/x"};
  auto read = parseHolderState(holderStateText(state));
  ASSERT_TRUE(read) << read.error().text();
  EXPECT_EQ(read->pid, 4711);
  EXPECT_EQ(read->startTime, 123456789U);
  EXPECT_EQ(read->instance, "abc");
  EXPECT_EQ(read->cgroup, "/user.slice/x");
}

TEST(HolderState, RefusesDamage) {
  for (const char* text : {"", "{", "[]", R"({"pid":5})", R"({"pid":"5","startTime":1,"instance":"a","cgroup":"/"})",
                           R"({"pid":-1,"startTime":1,"instance":"a","cgroup":"/"})",
                           R"({"pid":1,"startTime":1,"instance":"a","cgroup":"/"})",
                           R"({"pid":5,"startTime":1,"instance":"a","cgroup":"x"})"})
    EXPECT_FALSE(parseHolderState(text)) << text;
}

class InDirectory : public testing::Test {
 protected:
  void SetUp() override {
    std::string name = std::filesystem::temp_directory_path() / "userns-XXXXXX";
    ASSERT_NE(::mkdtemp(name.data()), nullptr);
    paths_.runtime = name;
    ASSERT_TRUE(makeDirectories(paths_.nodeState()));
  }
  void TearDown() override { std::filesystem::remove_all(paths_.runtime); }
  Paths paths_;
};

TEST_F(InDirectory, NoNodeIsNotReadyAndNamesTheCommand) {
  auto none = Node::find(paths_);
  ASSERT_FALSE(none);
  EXPECT_EQ(none.error().code(), Code::NotReady);
  EXPECT_NE(none.error().text().find("systemctl --user start userpod-node"), std::string::npos);
}

TEST_F(InDirectory, ARecycledPidIsNoNode) {
  auto start = processStartTime(::getpid());
  ASSERT_TRUE(start);
  HolderState state{::getpid(), *start, "x", "/"};
  ASSERT_TRUE(writeFile(paths_.nodeState() + "/holder.json", holderStateText(state)));
  EXPECT_TRUE(Node::find(paths_));
  state.startTime += 1;
  ASSERT_TRUE(writeFile(paths_.nodeState() + "/holder.json", holderStateText(state)));
  auto other = Node::find(paths_);
  ASSERT_FALSE(other);
  EXPECT_EQ(other.error().code(), Code::NotReady);
}

TEST_F(InDirectory, UplinkStateTellsItsReason) {
  EXPECT_EQ(readUplinkState(paths_).phase, UplinkState::Phase::Down);
  ASSERT_TRUE(writeUplinkState(paths_, {UplinkState::Phase::Up, "", "/usr/bin/pasta", "it is able"}));
  EXPECT_EQ(readUplinkState(paths_).phase, UplinkState::Phase::Up);
  EXPECT_EQ(readUplinkState(paths_).program, "/usr/bin/pasta");
  EXPECT_EQ(readUplinkState(paths_).choice, "it is able");
  ASSERT_TRUE(writeUplinkState(paths_, {UplinkState::Phase::Down, "no \"tun\" \xff", "", ""}));
  auto state = readUplinkState(paths_);
  EXPECT_EQ(state.phase, UplinkState::Phase::Down);
  EXPECT_TRUE(state.reason.starts_with("no \"tun\" "));
  ASSERT_TRUE(writeFile(paths_.nodeState() + "/uplink.json", "{"));
  EXPECT_NE(readUplinkState(paths_).reason.find("damaged"), std::string::npos);
}

class BrokerPair : public testing::Test {
 protected:
  void SetUp() override {
    auto pair = makeSocketPair(SOCK_SEQPACKET);
    ASSERT_TRUE(pair);
    outer_ = std::move(pair->first);
    int on = 1;
    ASSERT_EQ(::setsockopt(outer_.get(), SOL_SOCKET, SO_PASSCRED, &on, sizeof(on)), 0);
    broker_ = std::make_unique<Broker>(std::move(pair->second));
  }
  UniqueFd outer_;
  std::unique_ptr<Broker> broker_;
};

TEST_F(BrokerPair, AnswersTheOwnPid) {
  std::jthread outer([&](std::stop_token stop) {
    while (!stop.stop_requested()) {
      (void)answerBrokerRequest(outer_.get());
      ::usleep(1000);
    }
  });
  auto pid = broker_->hostPid(::getpid());
  ASSERT_TRUE(pid) << pid.error().text();
  EXPECT_EQ(*pid, ::getpid());
}

TEST_F(BrokerPair, OwnProcessIsNotSandboxedAndAMissingOneIsAnError) {
  std::jthread outer([&](std::stop_token stop) {
    while (!stop.stop_requested()) {
      (void)answerBrokerRequest(outer_.get());
      ::usleep(1000);
    }
  });
  auto own = broker_->sandboxed(::getpid());
  ASSERT_TRUE(own) << own.error().text();
  EXPECT_FALSE(*own);
  EXPECT_FALSE(broker_->sandboxed(1 << 30));
}

TEST_F(BrokerPair, AStuckOuterIsATimeoutAndADeadOneAnError) {
  auto begin = std::chrono::steady_clock::now();
  auto stuck = broker_->sandboxed(::getpid());
  EXPECT_LT(std::chrono::steady_clock::now() - begin, std::chrono::milliseconds(1500));
  ASSERT_FALSE(stuck);
  EXPECT_EQ(stuck.error().code(), Code::Timeout);
  // The late answer to the first question must not be taken for the second one's.
  ASSERT_TRUE(answerBrokerRequest(outer_.get()));
  outer_.reset();
  EXPECT_FALSE(broker_->hostPid(::getpid()));
}

}  // namespace
}  // namespace userpod

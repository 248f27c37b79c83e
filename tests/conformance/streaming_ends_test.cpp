// How sessions of exec end: children that hold the pipes, clients that vanish, containers that end; and many at once.
#include "tests/conformance/streaming_world.hpp"

namespace userpod::conformance {
namespace {

std::string numbers(int last) {
  std::string text;
  for (int line = 1; line <= last; ++line) text += std::to_string(line) + "\n";
  return text;
}

milliseconds since(std::chrono::steady_clock::time_point begin) {
  return std::chrono::duration_cast<milliseconds>(std::chrono::steady_clock::now() - begin);
}

}  // namespace

using ExecEnd = OverProtocol;
INSTANTIATE_TEST_SUITE_P(Each, ExecEnd, testing::ValuesIn(someProtocols()), nameOf);

// ---- Children

TEST_P(ExecEnd, ComesThoughAChildHoldsThePipes) {
  PROMISE("1.1.18 children");
  for (const auto& streams : {kOut, kAll}) {
    auto begin = std::chrono::steady_clock::now();
    auto outcome = ran("sleep 3600 & echo early; echo err >&2; exit 5", streams);
    EXPECT_EQ(outcome.out, "early\n");
    EXPECT_EQ(outcome.err, "err\n");
    expectCode(protocol(), outcome, 5);
    EXPECT_LE(since(begin), patience(seconds(5)));
  }
}

TEST_P(ExecEnd, ComesThoughAChildHoldsTheTerminal) {
  PROMISE("1.1.18 children");
  auto begin = std::chrono::steady_clock::now();
  auto outcome = ran("setsid sh -c \"trap '' HUP; exec sleep 3600\" & echo early; exit 5", kTerminal);
  EXPECT_EQ(outcome.out, "early\r\n");
  expectCode(protocol(), outcome, 5);
  EXPECT_LE(since(begin), patience(seconds(5)));
}

TEST_P(ExecEnd, DaemonThatLetGoOfThePipesLivesOn) {
  PROMISE("1.1.18 children");
  auto marker = uniqueName("marker");
  ran("(setsid sh -c 'sleep 3600; : " + marker + "' > /dev/null 2>&1 < /dev/null &)");
  std::this_thread::sleep_for(milliseconds(500));
  auto left = processesWith(marker);
  EXPECT_FALSE(left.empty());
  for (auto pid : left) killProcess(pid);
}

// ---- Clients

TEST_P(ExecEnd, ClientThatVanishesEndsItsCommand) {
  PROMISE("1.1.18 vanished client");
  for (auto how : {streamtest::Drop::Fin, streamtest::Drop::Reset}) {
    auto marker = uniqueName("marker");
    auto session = execute("echo ready; while :; do sleep 0.1; done; : " + marker, kAll);
    session->waitFor("ready");
    session->drop(how);
    waitUntil([&] { return processesWith(marker).empty(); }, "the end of what the client left");
  }
  EXPECT_EQ(container().text("echo fine"), "fine");
}

TEST_P(ExecEnd, ClientThatVanishesAtOnceLeavesNothing) {
  PROMISE("1.1.18 vanished client");
  std::vector<std::pair<std::string, std::string>> left;
  for (int i = 0; i < 10; ++i) {
    auto marker = uniqueName("marker");
    auto session = execute("while :; do sleep 0.1; done; : " + marker, kAll);
    std::this_thread::sleep_for(milliseconds(10 * i));
    session->drop(i % 2 == 0 ? streamtest::Drop::Fin : streamtest::Drop::Reset);
    left.emplace_back(marker, "after " + std::to_string(10 * i) + " ms");
  }
  std::this_thread::sleep_for(seconds(2));  // those that are only being started
  for (const auto& [marker, when] : left)
    waitUntil([&] { return processesWith(marker).empty(); }, "the end of what a client left " + when);
}

TEST_P(ExecEnd, ClientThatVanishesHarmsNoOther) {
  PROMISE("1.1.18 apart");
  auto other = execute("read -r line; seq 1 10000; exit 6", kAll);
  for (int i = 0; i < 5; ++i) {
    auto session = execute("yes", kAll);
    session->waitFor("y\n");
    session->drop(streamtest::Drop::Reset);
  }
  other->write("now\n");
  auto outcome = ended(*other);
  EXPECT_TRUE(outcome.out == numbers(10'000));
  expectCode(protocol(), outcome, 6);
}

// ---- The container

TEST_P(ExecEnd, EndOfTheContainerIsTheEnd) {
  PROMISE("1.1.18 container");
  Container other(pod());
  for (const auto& streams : {kAll, kTerminal}) {
    Container victim(pod());
    victim.up();
    auto session = conformance::execute(protocol(), victim, "echo in; sleep 3600", streams);
    session->waitFor("in");
    victim.stop(0);
    auto outcome = ended(*session, seconds(10));
    EXPECT_FALSE(outcome.success);
    EXPECT_EQ(outcome.out.substr(0, 2), "in");
  }
  EXPECT_EQ(conformance::ran(protocol(), other, "echo fine").out, "fine\n");
}

TEST_P(ExecEnd, RemovalOfTheContainerIsTheEnd) {
  PROMISE("1.1.18 container");
  auto session = [&] {
    Container victim(pod());
    auto opened = conformance::execute(protocol(), victim, "echo in; sleep 3600", kAll);
    opened->waitFor("in");
    return opened;
  }();
  EXPECT_FALSE(ended(*session, seconds(10)).success);
}

TEST_P(ExecEnd, RemovalOfThePodIsTheEnd) {
  PROMISE("1.1.18 container");
  std::unique_ptr<Session> session;
  {
    Pod victims;
    Container victim(victims);
    session = conformance::execute(protocol(), victim, "echo in; sleep 3600", kAll);
    session->waitFor("in");
  }
  EXPECT_FALSE(ended(*session, seconds(10)).success);
}

// ---- Back-pressure

TEST_P(ExecEnd, SlowReaderGetsAllAndHoldsUpNobody) {
  PROMISE("1.1.18 slow reader");
  constexpr int kLast = 3'000'000;  // 22 MB
  auto slow = execute("seq 1 " + std::to_string(kLast) + "; exit 3");
  slow->pause(true);
  auto before = slow->bytes(Channel::Out);
  for (int i = 0; i < 10; ++i) {
    auto begin = std::chrono::steady_clock::now();
    EXPECT_EQ(ran("echo quick").out, "quick\n");
    EXPECT_LE(since(begin), patience(seconds(2)));
    std::this_thread::sleep_for(milliseconds(100));
  }
  EXPECT_LE(slow->bytes(Channel::Out) - before, 1U << 20) << "it did not read";
  EXPECT_FALSE(slow->over(milliseconds(0)));
  slow->pause(false);
  auto outcome = ended(*slow, seconds(60));
  EXPECT_TRUE(outcome.out == numbers(kLast)) << outcome.out.size();
  expectCode(protocol(), outcome, 3);
}

TEST_P(ExecEnd, WriterWaitsForASlowReader) {
  PROMISE("1.1.18 slow reader");
  auto name = uniqueName("count");
  auto slow = execute("i=0; while :; do head -c 65536 /dev/zero; i=$((i + 1)); echo $i > /tmp/" + name + "; done");
  slow->pause(true);
  std::this_thread::sleep_for(seconds(2));
  auto first = container().text("cat /tmp/" + name);
  std::this_thread::sleep_for(seconds(1));
  EXPECT_EQ(container().text("cat /tmp/" + name), first) << "it writes on though nobody reads";
  EXPECT_LT(std::stoi(first), 320) << "20 MB lie somewhere";
  slow->drop();
}

TEST_P(ExecEnd, YesRunsOn) {
  PROMISE("1.1.18 slow reader");
  auto session = execute("timeout 3 yes");
  std::uint64_t bytes = 0, wrong = 0;
  session->setSink(Channel::Out, [&](std::string_view piece) {
    for (char c : piece) wrong += c != (bytes++ % 2 == 0 ? 'y' : '\n');
  });
  auto outcome = ended(*session);
  EXPECT_EQ(wrong, 0U);
  EXPECT_GT(bytes, 1U << 20);
}

// ---- Many

TEST_P(ExecEnd, FiftyAtOnceAreApart) {
  PROMISE("1.1.18 apart");
  container();
  std::atomic<int> next = 0;
  auto results = atOnce(50, [&] {
    auto number = std::to_string(next++);
    auto session = execute("read -r line; echo out$line; echo err$line >&2; exit $line", kAll);
    session->write(number + "\n");
    auto outcome = session->finish(patience(seconds(60)));
    return outcome.ended && outcome.out == "out" + number + "\n" && outcome.err == "err" + number + "\n" &&
           std::to_string(outcome.code.value_or(-1)) == number;
  });
  EXPECT_EQ(std::count(results.begin(), results.end(), true), 50);
}

}  // namespace userpod::conformance

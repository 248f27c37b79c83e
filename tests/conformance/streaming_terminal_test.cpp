// Exec with a terminal.
#include "tests/conformance/streaming_world.hpp"

namespace userpod::conformance {

using ExecTerminal = OverProtocol;
INSTANTIATE_TEST_SUITE_P(Each, ExecTerminal, testing::ValuesIn(allProtocols()), nameOf);

TEST_P(ExecTerminal, StreamsAreOneTerminal) {
  PROMISE("1.1.18 tty");
  auto outcome =
      ran("for i in 0 1 2; do test -t $i || echo no $i; done; tty; echo err >&2; echo out; exit 5", kTerminal);
  EXPECT_THAT(outcome.out, testing::MatchesRegex("/dev/pts/[0-9]+\r\nerr\r\nout\r\n"));
  EXPECT_EQ(outcome.err, "");
  expectCode(protocol(), outcome, 5);
}

TEST_P(ExecTerminal, IsTheControllingOne) {
  PROMISE("1.1.18 tty");
  auto outcome = ran("echo said > /dev/tty; echo $TERM", kTerminal);
  EXPECT_EQ(outcome.out, "said\r\nxterm\r\n");
}

TEST_P(ExecTerminal, InputIsEchoedAndRead) {
  PROMISE("1.1.18 tty");
  auto session = execute("read -r line; echo \"<$line>\"; exit 3", kTerminal);
  session->write("typed\n");
  auto outcome = ended(*session);
  EXPECT_EQ(outcome.out, "typed\r\n<typed>\r\n");
  expectCode(protocol(), outcome, 3);
}

TEST_P(ExecTerminal, ControlCInterrupts) {
  PROMISE("1.1.18 tty signals");
  auto session = execute("trap 'echo interrupted; exit 42' INT; echo ready; while :; do sleep 0.1; done", kTerminal);
  session->waitFor("ready");
  session->write("\x03");
  auto outcome = ended(*session);
  EXPECT_THAT(outcome.out, testing::HasSubstr("interrupted"));
  expectCode(protocol(), outcome, 42);
}

TEST_P(ExecTerminal, ControlCEndsWhatHasNoHandler) {
  PROMISE("1.1.18 tty signals");
  auto session = execute("echo ready; exec sleep 3600", kTerminal);
  session->waitFor("ready");
  std::this_thread::sleep_for(milliseconds(200));
  session->write("\x03");
  expectCode(protocol(), ended(*session), 130);
}

TEST_P(ExecTerminal, ControlDEndsTheInput) {
  PROMISE("1.1.18 tty signals");
  auto session = execute("cat; echo over", kTerminal);
  session->write("line\n");
  session->waitFor("line\r\nline\r\n");
  session->write("\x04");
  EXPECT_EQ(ended(*session).out, "line\r\nline\r\nover\r\n");
}

TEST_P(ExecTerminal, ShellIsInteractive) {
  PROMISE("1.1.18 tty");
  auto session =
      Session::open(protocol(), call(execRequest(container().id(), {"/bin/sh"}, kTerminal)).url(), kTerminal);
  session->write("echo $((6 * 7))\n");
  session->waitFor("\n42\r\n");
  session->write("exit 9\n");
  expectCode(protocol(), ended(*session), 9);
}

TEST_P(ExecTerminal, LargeOutputIsWhole) {
  PROMISE("1.1.18 order");
  auto outcome = ran("seq 1 100000; exit 3", kTerminal);
  std::string wanted;
  for (int line = 1; line <= 100'000; ++line) wanted += std::to_string(line) + "\r\n";
  EXPECT_TRUE(outcome.out == wanted) << outcome.out.size() << " bytes of " << wanted.size();
  expectCode(protocol(), outcome, 3);
}

TEST_P(ExecTerminal, WithoutInputIsATerminalTooAndCanBeRead) {
  PROMISE("1.1.18 streams");
  auto outcome = ran("test -t 1 && echo terminal", {.in = false, .out = true, .err = false, .tty = true});
  EXPECT_EQ(outcome.out, "terminal\r\n");
}

TEST_P(ExecTerminal, ClientThatVanishesHangsItUp) {
  PROMISE("1.1.18 vanished client");
  auto marker = uniqueName("marker");
  auto session =
      execute("trap 'echo hup > /tmp/" + marker + "; exit' HUP; echo ready; while :; do sleep 0.1; done; : " + marker,
              kTerminal);
  session->waitFor("ready");
  session->drop();
  waitUntil([&] { return processesWith(marker).empty(); }, "the end of what the client left");
  EXPECT_EQ(container().text("cat /tmp/" + marker), "hup");
}

// ---- Sizes

using ExecSize = OverProtocol;
INSTANTIATE_TEST_SUITE_P(Each, ExecSize, testing::ValuesIn(protocolsWith([](const auto& p) { return p.resizes; })),
                         nameOf);

TEST_P(ExecSize, FirstSizeIsThereWhenTheCommandStarts) {
  PROMISE("1.4 resize");
  for (int i = 0; i < 5; ++i) {
    auto session = execute("stty size", kTerminal);
    session->resize(100 + i, 40);
    EXPECT_EQ(ended(*session).out, "40 " + std::to_string(100 + i) + "\r\n");
  }
}

TEST_P(ExecSize, WithoutOneTheCommandStartsAllTheSame) {
  PROMISE("1.4 resize");
  auto begin = std::chrono::steady_clock::now();
  EXPECT_EQ(ran("echo runs", kTerminal).out, "runs\r\n");
  EXPECT_LT(std::chrono::steady_clock::now() - begin, patience(seconds(5)));
}

TEST_P(ExecSize, LaterSizesAreSeen) {
  PROMISE("1.4 resize");
  auto session = execute("trap 'stty size' WINCH; echo ready; while :; do sleep 0.05; done", kTerminal);
  session->resize(80, 24);
  session->waitFor("ready");
  session->resize(120, 50);
  session->waitFor("50 120\r\n");
  session->resize(3, 2);
  session->waitFor("\n2 3\r\n");
  session->resize(20'000, 1000);
  session->waitFor("1000 20000\r\n");
}

TEST_P(ExecSize, SizesAreAStreamOfJson) {
  PROMISE("1.4 resize");
  auto session = execute("trap 'stty size' WINCH; echo ready; while :; do sleep 0.05; done", kTerminal);
  session->waitFor("ready");
  session->send(Channel::Resize, "{\"Width\":10,\"Hei");
  std::this_thread::sleep_for(milliseconds(50));
  session->send(Channel::Resize, "ght\":11}");
  session->waitFor("11 10\r\n");
  session->send(Channel::Resize, "\n{\"Width\":20,\"Height\":21}{ \"Height\" : 31 , \"Width\" : 30 }\n\n");
  session->waitFor("31 30\r\n");
}

TEST_P(ExecSize, NonsenseIsNoHarm) {
  PROMISE("1.4 resize nonsense");
  for (const auto* nonsense :
       {"garbage", "{", "null", "[]", "{\"Width\":-1,\"Height\":-1}", "{\"Width\":70000,\"Height\":1}",
        "{\"Width\":\"x\",\"Height\":1}", "{\"Width\":0,\"Height\":0}", "{}", "}}}}", "\xff\xfe", "1e999"}) {
    auto session = execute("echo ready; read -r line; echo \"<$line>\"; exit 8", kTerminal);
    session->send(Channel::Resize, nonsense);
    session->waitFor("ready");
    session->write("goes on\n");
    auto outcome = ended(*session);
    EXPECT_THAT(outcome.out, testing::HasSubstr("<goes on>")) << nonsense;
    expectCode(protocol(), outcome, 8);
  }
}

TEST_P(ExecSize, EndlessNonsenseIsNoHarm) {
  PROMISE("1.4 resize nonsense");
  auto session = execute("echo ready; read -r line; echo \"<$line>\"", kTerminal);
  session->waitFor("ready");
  std::string deep(100'000, '[');
  try {
    for (int i = 0; i < 50; ++i) session->send(Channel::Resize, deep);
    session->write("goes on\n");
  } catch (const streamtest::Lost&) {  // a connection that such a client loses is fine
  }
  session->over(patience(seconds(10)));
  EXPECT_EQ(container().text("echo fine"), "fine");
  EXPECT_EQ(ran("echo others", kOut).out, "others\n");
}

}  // namespace userpod::conformance

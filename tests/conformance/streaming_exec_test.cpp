// Exec: the call, and sessions over each protocol. Terminals and ends: streaming_terminal_test.cpp.
#include <algorithm>

#include "tests/conformance/streaming_world.hpp"

namespace userpod::conformance {
namespace {

constexpr std::size_t kMiB = 1 << 20;

std::string numbers(int last) {
  std::string text;
  for (int line = 1; line <= last; ++line) text += std::to_string(line) + "\n";
  return text;
}

// Where the last event of a kind stands for a stream; -1 without one.
std::ptrdiff_t lastOf(const Outcome& outcome, What what, std::uint32_t stream) {
  const auto& events = outcome.inventory.events;
  auto found = std::find_if(events.rbegin(), events.rend(),
                            [&](const auto& event) { return event.what == what && event.stream == stream; });
  return events.rend() - found - 1;
}

}  // namespace

// ---- The call

TEST(Exec, NeedsAnId) {
  PROMISE("1.1.18 request");
  expectFailure(execRequest("", {"true"}, kOut), {StatusCode::INVALID_ARGUMENT}, "container_id");
}

TEST(Exec, UnknownIsNotFound) {
  PROMISE("1.1.18 request");
  expectFailure(execRequest(kUnknown, {"true"}, kOut), {StatusCode::NOT_FOUND});
}

TEST(Exec, NeedsAStream) {
  PROMISE("1.1.18 request");
  Pod pod;
  Container container(pod);
  expectFailure(execRequest(container.id(), {"true"}, {.in = false, .out = false, .err = false}),
                {StatusCode::INVALID_ARGUMENT}, "stdin.*stdout.*stderr");
}

TEST(Exec, TerminalHasNoStderrOfItsOwn) {
  PROMISE("1.1.18 request");
  Pod pod;
  Container container(pod);
  expectFailure(execRequest(container.id(), {"true"}, {.in = true, .out = true, .err = true, .tty = true}),
                {StatusCode::INVALID_ARGUMENT}, "tty");
}

TEST(Exec, NeedsARunningContainer) {
  PROMISE("1.1.18 running");
  Pod pod;
  auto created = Container::created(pod);
  expectFailure(execRequest(created.id(), {"true"}, kOut), {}, "running|state|ended");
  created.start();
  EXPECT_EQ(ran(streamtest::protocol("SpdyV4"), created, "echo runs").out, "runs\n");
  created.up().stop(30);
  expectFailure(execRequest(created.id(), {"true"}, kOut), {}, "running|state|ended");
}

TEST(Exec, EndOfTheContainerBetweenCallAndSessionIsTold) {
  PROMISE("1.1.18 running");
  Pod pod;
  Container container(pod);
  container.up();
  auto url = execUrl(container.id(), "echo runs");
  container.stop();
  auto session = Session::open(streamtest::protocol("SpdyV4"), url, kOut);
  auto outcome = session->finish(seconds(10));
  EXPECT_FALSE(outcome.success);
  EXPECT_EQ(outcome.out, "");
}

TEST(Exec, StartOfTheIdIsEnough) {
  PROMISE("1.0 prefix");
  Pod pod;
  Container container(pod);
  auto url = execUrl(container.id().substr(0, 13), "echo runs");
  EXPECT_EQ(ended(*Session::open(streamtest::protocol("SpdyV4"), url, kOut)).out, "runs\n");
}

TEST(Exec, EmptyCommandIsAnError) {
  PROMISE("1.1.18 request");
  Pod pod;
  Container container(pod);
  for (const auto& words : {std::vector<std::string>{}, std::vector<std::string>{""}}) {
    auto answer = attempt(execRequest(container.id(), words, kOut));
    if (!answer.status.ok()) continue;
    auto outcome = ended(*Session::open(streamtest::protocol("SpdyV4"), answer.value.url(), kOut));
    EXPECT_FALSE(outcome.success) << outcome.error;
  }
}

TEST(Exec, UrlIsOfHttpAndCannotBeGuessed) {
  PROMISE("1.1.18 url");
  Pod pod;
  Container container(pod);
  auto request = execRequest(container.id(), {"true"}, kOut);
  auto one = call(request).url(), other = call(request).url();
  EXPECT_THAT(one, testing::MatchesRegex("https?://[^/]+:[0-9]+/.*"));
  EXPECT_NE(one, other);
  // 256 bits are 43 letters of base64, or more of what has fewer bits a letter.
  auto token = one.substr(one.rfind('/') + 1);
  EXPECT_GE(token.size(), 43U) << one;
  EXPECT_THAT(token, testing::MatchesRegex("[-_0-9A-Za-z]+"));
}

TEST(Exec, CommandThatIsNotThereFailsWithItsName) {
  PROMISE("1.1.18 failure");
  Pod pod;
  Container container(pod);
  for (const auto& name : someProtocols()) {
    auto url = call(execRequest(container.id(), {"/no/such/program"}, kOut)).url();
    auto outcome = ended(*Session::open(streamtest::protocol(name), url, kOut));
    EXPECT_FALSE(outcome.success);
    EXPECT_THAT(outcome.message, testing::HasSubstr("/no/such/program")) << outcome.error;
    EXPECT_EQ(container.text("echo goes on"), "goes on");
  }
}

TEST(Exec, WordsArriveUnchanged) {
  PROMISE("1.1.18 output");
  Pod pod;
  Container container(pod);
  auto url =
      call(execRequest(container.id(), {"printf", "<%s>", "two words", "", "$HOME", "'\"\\", "ünï", "a\nb"}, kOut))
          .url();
  EXPECT_EQ(ended(*Session::open(streamtest::protocol("SpdyV4"), url, kOut)).out,
            "<two words><><$HOME><'\"\\><ünï><a\nb>");
}

TEST(Exec, RunsAsTheContainerDoes) {
  PROMISE("1.1.18 output");
  Pod pod;
  Container container(pod, [](auto& c) {
    securityOf(c)->mutable_run_as_user()->set_value(1000);
    c.set_working_dir("/tmp");
    auto* env = c.add_envs();
    env->set_key("OF_CONTAINER");
    env->set_value("yes");
  });
  EXPECT_EQ(ran(streamtest::protocol("SpdyV4"), container, "id -u; pwd; echo $OF_CONTAINER").out, "1000\n/tmp\nyes\n");
}

// ---- Output and exit code

using ExecStream = OverProtocol;
INSTANTIATE_TEST_SUITE_P(Each, ExecStream, testing::ValuesIn(allProtocols()), nameOf);

TEST_P(ExecStream, StreamsAndExitCodeAreApart) {
  PROMISE("1.1.18 output");
  PROMISE("1.4 protocols");
  auto outcome = ran("echo out; echo err >&2; exit 7");
  EXPECT_EQ(outcome.out, "out\n");
  EXPECT_EQ(outcome.err, "err\n");
  expectCode(protocol(), outcome, 7);
}

TEST_P(ExecStream, OutputIsByteForByte) {
  PROMISE("1.1.18 output");
  auto outcome = ran("printf 'a\\000\\377\\r\\n\\n'; printf '\\200' >&2");
  EXPECT_EQ(outcome.out, std::string("a\0\xff\r\n\n", 6));
  EXPECT_EQ(outcome.err, "\x80");
  EXPECT_EQ(ran("true").out, "");
}

TEST_P(ExecStream, ExitCodesAreThoseOfTheCommand) {
  PROMISE("1.1.18 exit code");
  for (int code : {0, 1, 127, 255}) expectCode(protocol(), ran("exit " + std::to_string(code)), code);
  expectCode(protocol(), ran("kill -9 $$"), 137);
}

TEST_P(ExecStream, LargeOutputIsWholeAndInOrder) {
  PROMISE("1.1.18 order");
  auto outcome = ran("seq 1 200000; seq 1 50000 >&2; exit 3");
  EXPECT_TRUE(outcome.out == numbers(200'000)) << outcome.out.size();
  EXPECT_TRUE(outcome.err == numbers(50'000)) << outcome.err.size();
  expectCode(protocol(), outcome, 3);
}

TEST_P(ExecStream, NothingIsLostAtTheEnd) {
  PROMISE("1.1.18 order");
  for (int i = 0; i < 10; ++i) {
    auto outcome = ran("head -c 100000 /dev/zero; echo last >&2");
    EXPECT_EQ(outcome.out.size(), 100'000U);
    EXPECT_EQ(outcome.err, "last\n");
  }
}

TEST_P(ExecStream, OnlyTheStreamsAskedForAreThere) {
  PROMISE("1.1.18 streams");
  auto script = "echo out; echo err >&2; exit 7";
  auto out = ran(script, {.out = true, .err = false});
  EXPECT_EQ(out.out, "out\n");
  expectCode(protocol(), out, 7);
  auto err = ran(script, {.out = false, .err = true});
  EXPECT_EQ(err.err, "err\n");
  expectCode(protocol(), err, 7);
  EXPECT_EQ(out.err + err.out, "");
}

TEST_P(ExecStream, WithoutStdinThereIsNothingToRead) {
  PROMISE("1.1.18 streams");
  EXPECT_EQ(ran("cat; echo over; test -t 0 || test -t 1 || echo no terminal").out, "over\nno terminal\n");
}

// ---- Input

TEST_P(ExecStream, InputArrives) {
  PROMISE("1.1.18 input");
  auto session = execute("read -r line; echo \"<$line>\"; read -r line; echo \"<$line>\"; exit 4", kAll);
  session->write("first li");
  session->write("ne\n");
  session->waitFor("<first line>\n");
  session->write(std::string("ü \\ \1 two\n"));
  auto outcome = ended(*session);
  EXPECT_EQ(outcome.out, "<first line>\n<ü \\ \1 two>\n");
  expectCode(protocol(), outcome, 4);
}

TEST_P(ExecStream, InputAloneIsEnough) {
  PROMISE("1.1.18 streams");
  auto session = execute("read -r code; exit $code", {.in = true, .out = false, .err = false});
  session->write("9\n");
  expectCode(protocol(), ended(*session), 9);
}

TEST_P(ExecStream, BothWaysAtOnceIsByteForByte) {
  PROMISE("1.1.18 input");
  PROMISE("1.1.18 order");
  auto bytes = bytesOfAllKinds(3 * kMiB);
  auto session = execute("head -c " + std::to_string(bytes.size()), kAll);
  session->write(bytes);
  auto outcome = ended(*session, seconds(60));
  EXPECT_TRUE(outcome.out == bytes) << outcome.out.size();
  expectCode(protocol(), outcome, 0);
}

TEST_P(ExecStream, EndOfAProcessThatReadsNothingIsTold) {
  PROMISE("1.1.18 input");
  auto session = execute("echo early; exit 6", kAll);
  try {
    for (int i = 0; i < 64; ++i) session->write(std::string(64 << 10, 'x'));
  } catch (const streamtest::Lost&) {  // the server has ended the session
  }
  auto outcome = session->finish(patience(seconds(20)));
  EXPECT_EQ(outcome.out, "early\n");
  expectCode(protocol(), outcome, 6);
}

TEST_P(ExecStream, PingsAreAnswered) {
  PROMISE("1.4 ping");
  auto session = execute("read -r line; echo $line", kAll);
  for (int i = 0; i < 3; ++i) {
    session->ping();
    EXPECT_TRUE(session->pingAnswered(patience(seconds(5))));
  }
  session->write("goes on\n");
  EXPECT_EQ(ended(*session).out, "goes on\n");
}

TEST_P(ExecStream, StatusIsTheLastThingTold) {
  PROMISE("1.4 end");
  auto session = execute("echo out; echo err >&2; exit 1");
  auto out = session->key(Channel::Out), err = session->key(Channel::Err), error = session->key(Channel::Error);
  auto outcome = ended(*session);
  auto status = lastOf(outcome, What::Data, error);
  EXPECT_GT(status, lastOf(outcome, What::Data, out));
  EXPECT_GT(status, lastOf(outcome, What::Data, err));
  if (protocol().spdy) return;
  EXPECT_GT(lastOf(outcome, What::Close, 0), status);
  EXPECT_EQ(outcome.inventory.closeCode, streamtest::ws::kNormal);
}

// ---- Of some protocols

using ExecJson = OverProtocol;
INSTANTIATE_TEST_SUITE_P(Each, ExecJson, testing::ValuesIn(protocolsWith([](const auto& p) { return p.json; })),
                         nameOf);

TEST_P(ExecJson, StatusIsThatOfKubernetes) {
  PROMISE("1.4 status");
  auto success = nlohmann::json::parse(ran("true").error);
  EXPECT_EQ(success["status"], "Success");
  auto failure = nlohmann::json::parse(ran("exit 7").error);
  EXPECT_EQ(failure["status"], "Failure");
  EXPECT_EQ(failure["reason"], "NonZeroExitCode");
  EXPECT_THAT(failure["message"].get<std::string>(), testing::HasSubstr("7"));
  auto cause = nlohmann::json::parse(R"([{"reason":"ExitCode","message":"7"}])");
  EXPECT_EQ(failure["details"]["causes"], cause);
}

TEST_P(ExecJson, CommandThatCannotBeStartedIsAnInternalError) {
  PROMISE("1.4 status");
  auto url = call(execRequest(container().id(), {"/no/such/program"}, kOut)).url();
  auto outcome = ended(*Session::open(protocol(), url, kOut));
  auto status = nlohmann::json::parse(outcome.error);
  EXPECT_EQ(status["status"], "Failure");
  if (status["reason"] == "NonZeroExitCode") return;  // as a shell says it: 126 or 127
  EXPECT_EQ(status["reason"], "InternalError");
  EXPECT_EQ(status["code"], 500);
}

using ExecText = OverProtocol;
INSTANTIATE_TEST_SUITE_P(Each, ExecText, testing::ValuesIn(protocolsWith([](const auto& p) { return !p.json; })),
                         nameOf);

TEST_P(ExecText, SuccessIsNoTextAndFailureIsOne) {
  PROMISE("1.4 status");
  EXPECT_EQ(ran("true").error, "");
  auto failure = ran("exit 7").error;
  EXPECT_THAT(failure, testing::HasSubstr("7"));
  EXPECT_EQ(failure.find('{'), std::string::npos) << failure;
}

using ExecInputEnds = OverProtocol;
INSTANTIATE_TEST_SUITE_P(Each, ExecInputEnds,
                         testing::ValuesIn(protocolsWith([](const auto& p) { return p.endsInput; })), nameOf);

TEST_P(ExecInputEnds, CommandSeesTheEndOfItsInput) {
  PROMISE("1.4 half-close");
  auto session = execute("cat; echo over; exit 2", kAll);
  session->write("some");
  session->endInput();
  auto outcome = ended(*session);
  EXPECT_EQ(outcome.out, "someover\n");
  expectCode(protocol(), outcome, 2);
}

TEST_P(ExecInputEnds, EmptyInputEndsToo) {
  PROMISE("1.4 half-close");
  auto session = execute("cat; echo over", kAll);
  session->endInput();
  EXPECT_EQ(ended(*session).out, "over\n");
}

TEST_P(ExecInputEnds, LargeInputIsByteForByte) {
  PROMISE("1.4 half-close");
  PROMISE("1.1.18 input");
  auto bytes = bytesOfAllKinds(8 * kMiB + 17);
  auto session = execute("cat", kAll);
  session->write(bytes);
  session->endInput();
  auto outcome = ended(*session, seconds(60));
  EXPECT_TRUE(outcome.out == bytes) << outcome.out.size();
}

TEST_P(ExecInputEnds, OutputGoesOnAfterwards) {
  PROMISE("1.4 half-close");
  auto session = execute("cat > /dev/null; sleep 1; seq 1 20000", kAll);
  session->write(std::string(kMiB, 'x'));
  session->endInput();
  EXPECT_TRUE(ended(*session).out == numbers(20'000));
}

TEST_P(ExecInputEnds, SlowCommandGetsAllOfItsInput) {
  PROMISE("1.1.18 order");
  auto session = execute("sleep 1; wc -c", kAll);
  session->write(std::string(2 * kMiB, 'x'));
  session->endInput();
  EXPECT_EQ(ended(*session).out, std::to_string(2 * kMiB) + "\n");
}

}  // namespace userpod::conformance

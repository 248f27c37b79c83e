// Attach.
#include "tests/conformance/streaming_world.hpp"

namespace userpod::conformance {
namespace {

// Counts its lines of input; "bye" ends it with 7.
auto counter() {
  return shell(
      "trap 'exit 0' TERM; echo up; i=0; while read -r line; do i=$((i + 1)); echo \"$i <$line>\"; echo \"err $i\" "
      ">&2; "
      "[ \"$line\" = bye ] && exit 7; done; echo end of input; sleep 3600 & wait");
}
auto withInput(bool once) {
  return [once](v1::ContainerConfig& c) {
    c.set_stdin(true);
    c.set_stdin_once(once);
  };
}
void withTerminal(v1::ContainerConfig& c) {
  c.set_tty(true);
  c.set_stdin(true);
}
// A line every 20 ms.
auto ticker() {
  return shell("trap 'exit 0' TERM; i=0; while :; do i=$((i + 1)); echo tick $i; usleep 20000; done");
}

}  // namespace

// ---- The call

TEST(Attach, NeedsAnId) {
  PROMISE("1.1.19 request");
  expectFailure(attachRequest("", kOut), {StatusCode::INVALID_ARGUMENT}, "container_id");
}

TEST(Attach, UnknownIsNotFound) {
  PROMISE("1.1.19 request");
  expectFailure(attachRequest(kUnknown, kOut), {StatusCode::NOT_FOUND});
}

TEST(Attach, NeedsAStreamAndATerminalHasNoStderr) {
  PROMISE("1.1.19 request");
  Pod pod;
  Container container(pod, withTerminal);
  expectFailure(attachRequest(container.id(), {.in = false, .out = false, .err = false}),
                {StatusCode::INVALID_ARGUMENT}, "stdin.*stdout.*stderr");
  expectFailure(attachRequest(container.id(), {.in = true, .out = true, .err = true, .tty = true}),
                {StatusCode::INVALID_ARGUMENT}, "tty");
}

TEST(Attach, TerminalMustBeAsTheContainerHasIt) {
  PROMISE("1.1.19 tty");
  Pod pod;
  Container plain(pod, withInput(false));
  Container terminal(pod, withTerminal);
  for (auto [container, streams] : {std::pair{&plain, kTerminal}, std::pair{&terminal, kOut}}) {
    auto answer = attempt(attachRequest(container->id(), streams));
    if (!answer.status.ok()) continue;
    auto session = Session::open(streamtest::protocol("SpdyV4"), answer.value.url(), streams);
    EXPECT_FALSE(ended(*session, seconds(10)).success);
  }
}

TEST(Attach, EndedContainerIsAnError) {
  PROMISE("1.1.19 states");
  Pod pod;
  Container container(pod);
  container.up().stop(30);
  auto answer = attempt(attachRequest(container.id(), kOut));
  if (!answer.status.ok()) return;
  EXPECT_FALSE(ended(*Session::open(streamtest::protocol("SpdyV4"), answer.value.url(), kOut), seconds(10)).success);
}

TEST(Attach, StartOfTheIdIsEnough) {
  PROMISE("1.0 prefix");
  Pod pod;
  Container container(pod, ticker());
  auto session = Session::open(streamtest::protocol("SpdyV4"), attachUrl(container.id().substr(0, 13)), kOut);
  session->waitFor("tick");
}

// ---- Output and input

class AttachStream : public testing::TestWithParam<std::string> {
 protected:
  const Protocol& protocol() const { return streamtest::protocol(GetParam()); }
  std::unique_ptr<Session> attach(const Container& container, const Streams& streams = kOut) const {
    return conformance::attach(protocol(), container, streams);
  }
  Pod pod;
};
INSTANTIATE_TEST_SUITE_P(Each, AttachStream, testing::ValuesIn(allProtocols()), nameOf);

TEST_P(AttachStream, BothStreamsAndInputAreThere) {
  PROMISE("1.1.19 streams");
  Container container(pod, counter(), withInput(false));
  container.up();
  auto session = attach(container, kAll);
  session->write("first\n");
  session->waitFor("1 <first>\n");
  session->waitFor("err 1\n", Channel::Err);
  session->write("second\nbye\n");
  auto outcome = ended(*session);
  EXPECT_EQ(outcome.out, "1 <first>\n2 <second>\n3 <bye>\n");
  EXPECT_EQ(outcome.err, "err 1\nerr 2\nerr 3\n");
  EXPECT_EQ(container.ended().exit_code(), 7);
  EXPECT_EQ(container.out(), "up\n1 <first>\n2 <second>\n3 <bye>\n") << "the log has it too";
}

TEST_P(AttachStream, EndOfTheContainerIsSuccess) {
  PROMISE("1.1.19 end");
  Container container(pod, counter(), withInput(false));
  container.up();
  auto session = attach(container, kAll);
  session->write("bye\n");
  auto outcome = ended(*session);
  EXPECT_TRUE(outcome.success) << "whatever its exit code: " << outcome.error;
  EXPECT_EQ(outcome.out, "1 <bye>\n");
}

TEST_P(AttachStream, StopOfTheContainerIsTheEnd) {
  PROMISE("1.1.19 end");
  Container container(pod, ticker());
  auto session = attach(container);
  session->waitFor("tick");
  container.stop(10);
  EXPECT_TRUE(ended(*session).success);
}

TEST_P(AttachStream, TerminalIsTheContainersOwn) {
  PROMISE("1.1.19 tty");
  Container container(pod, shell("echo up; read -r line; echo \"<$line>\"; tty"), withTerminal);
  container.waitForLine("up\r");
  auto session = attach(container, kTerminal);
  session->write("typed\n");
  EXPECT_THAT(ended(*session).out, testing::MatchesRegex("typed\r\n<typed>\r\n/dev/(pts/[0-9]+|console)\r\n"));
}

TEST_P(AttachStream, VanishingClientLeavesTheContainerAlone) {
  PROMISE("1.1.19 detach");
  Container container(pod, counter(), withInput(false));
  container.up();
  for (int i = 1; i <= 3; ++i) {
    auto session = attach(container, kAll);
    session->write("line\n");
    session->waitFor(std::to_string(i) + " <line>\n");
    session->drop(i == 2 ? streamtest::Drop::Reset : streamtest::Drop::Fin);
    std::this_thread::sleep_for(milliseconds(100));
    EXPECT_EQ(container.state(), v1::CONTAINER_RUNNING);
  }
}

// ---- Of some protocols

class AttachSome : public AttachStream {};
INSTANTIATE_TEST_SUITE_P(Each, AttachSome, testing::ValuesIn(someProtocols()), nameOf);

TEST_P(AttachSome, NothingIsReplayed) {
  PROMISE("1.1.19 replay");
  Container container(pod, counter(), withInput(false));
  container.up();
  auto early = attach(container, kAll);
  early->write("early\n");
  early->waitFor("1 <early>\n");
  auto session = attach(container, kAll);
  session->write("bye\n");
  EXPECT_EQ(ended(*session).out, "2 <bye>\n");
}

TEST_P(AttachSome, CreatedContainerIsSeenFromItsFirstByte) {
  PROMISE("1.1.19 states");
  for (int i = 0; i < 3; ++i) {
    auto container = Container::created(pod, shell("echo first; echo err >&2; echo last"));
    auto session = attach(container);
    std::this_thread::sleep_for(seconds(1));  // the server attaches after it has answered; nothing tells when
    container.start();
    auto outcome = ended(*session);
    EXPECT_EQ(outcome.out, "first\nlast\n");
    EXPECT_EQ(outcome.err, "err\n");
    EXPECT_TRUE(outcome.success);
  }
}

TEST_P(AttachSome, InputBeforeTheStartIsNotLost) {
  PROMISE("1.1.19 states");
  auto container = Container::created(pod, counter(), withInput(false));
  auto session = attach(container, kAll);
  session->write("early\n");
  std::this_thread::sleep_for(milliseconds(200));
  container.start();
  session->waitFor("1 <early>\n");
}

TEST_P(AttachSome, SeveralSeeTheSame) {
  PROMISE("1.1.19 several");
  Container container(pod, counter(), withInput(false));
  container.up();
  std::vector<std::unique_ptr<Session>> sessions;
  for (int i = 0; i < 5; ++i) sessions.push_back(attach(container, kAll));
  std::this_thread::sleep_for(milliseconds(300));
  sessions[3]->write("from one\n");
  for (auto& session : sessions) session->waitFor("1 <from one>\n");
  sessions[1]->drop();
  sessions[4]->write("bye\n");
  for (int i : {0, 2, 3, 4}) {
    auto outcome = ended(*sessions[static_cast<std::size_t>(i)]);
    EXPECT_EQ(outcome.out, "1 <from one>\n2 <bye>\n");
    EXPECT_TRUE(outcome.success);
  }
}

TEST_P(AttachSome, OnlyTheStreamsAskedForAreThere) {
  PROMISE("1.1.19 streams");
  Container container(pod, counter(), withInput(false));
  container.up();
  auto out = attach(container, {.in = false, .out = true, .err = false});
  auto err = attach(container, {.in = false, .out = false, .err = true});
  auto all = attach(container, kAll);
  std::this_thread::sleep_for(milliseconds(300));
  all->write("bye\n");
  auto ofOut = ended(*out), ofErr = ended(*err);
  EXPECT_EQ(ofOut.out, "1 <bye>\n");
  EXPECT_EQ(ofOut.err, "");
  EXPECT_EQ(ofErr.err, "err 1\n");
  EXPECT_EQ(ofErr.out, "");
}

TEST_P(AttachSome, InputOfAContainerWithoutOneIsNoHarm) {
  PROMISE("1.1.19 streams");
  Container container(pod, ticker());
  auto session = attach(container, kAll);
  session->write("nobody reads this\n");
  session->waitFor("tick");
  EXPECT_EQ(container.state(), v1::CONTAINER_RUNNING);
  container.stop(10);
  EXPECT_TRUE(ended(*session).success);
}

TEST_P(AttachSome, LargeOutputIsWholeForAReader) {
  PROMISE("1.1.19 order");
  auto container = Container::created(pod, shell("seq 1 200000"));
  auto session = attach(container);
  // Nothing says that it is attached before the container says something.
  std::this_thread::sleep_for(seconds(1));
  container.start();
  std::string wanted;
  for (int line = 1; line <= 200'000; ++line) wanted += std::to_string(line) + "\n";
  auto outcome = ended(*session, seconds(60));
  EXPECT_TRUE(outcome.out == wanted) << outcome.out.size() << " bytes of " << wanted.size();
}

TEST_P(AttachSome, LargeInputIsByteForByte) {
  PROMISE("1.1.19 order");
  auto bytes = bytesOfAllKinds(1 << 20);
  Container container(pod, shell("echo up; head -c 1048576 | md5sum; echo done"), withInput(false));
  container.up();
  auto file = scratchDirectory() + "/input";
  writeFile(file, bytes);
  auto session = attach(container, kAll);
  session->write(bytes);
  auto outcome = ended(*session, seconds(60));
  EXPECT_THAT(outcome.out, testing::MatchesRegex("[0-9a-f]{32}  -\ndone\n"));
  Container control(pod, shell("md5sum < /input"), [&](auto& c) {
    auto* mount = c.add_mounts();
    mount->set_host_path(file);
    mount->set_container_path("/input");
    mount->set_readonly(true);
  });
  control.ended();
  EXPECT_EQ(outcome.out, control.out() + "done\n");
}

TEST_P(AttachSome, ContainerRunsOnWithASlowReader) {
  PROMISE("1.1.19 slow reader");
  Container container(
      pod, shell("trap 'exit 0' TERM; i=0; while :; do i=$((i + 1)); echo tick $i; seq 1 2000; usleep 5000; done"));
  auto slow = attach(container);
  slow->waitFor("tick");
  slow->pause(true);
  auto other = attach(container);
  other->waitFor("tick");
  slow->drop();
  auto before = other->bytes(Channel::Out);
  waitUntil([&] { return other->bytes(Channel::Out) > before + 100'000; }, "output after the slow reader has gone");
}

// ---- Sizes

class AttachSize : public AttachStream {};
INSTANTIATE_TEST_SUITE_P(Each, AttachSize, testing::ValuesIn(protocolsWith([](const auto& p) { return p.resizes; })),
                         nameOf);

TEST_P(AttachSize, IsThatOfTheContainersTerminal) {
  PROMISE("1.1.19 resize");
  Container container(pod, shell("trap 'stty size' WINCH; echo up; while :; do sleep 0.05; done"), withTerminal);
  container.waitForLine("up\r");
  auto session = attach(container, kTerminal);
  session->resize(101, 41);
  session->waitFor("41 101\r\n");
  session->send(Channel::Resize, "nonsense");
  std::this_thread::sleep_for(milliseconds(100));
  EXPECT_EQ(container.state(), v1::CONTAINER_RUNNING);
}

TEST_P(AttachSize, MayBeSetBeforeTheStart) {
  PROMISE("1.1.19 resize");
  auto container = Container::created(pod, shell("stty size; echo over"), withTerminal);
  auto session = attach(container, kTerminal);
  session->resize(102, 42);
  std::this_thread::sleep_for(seconds(1));
  container.start();
  EXPECT_EQ(ended(*session).out, "42 102\r\nover\r\n");
}

// ---- The end of stdin

class AttachInputEnds : public AttachStream {};
INSTANTIATE_TEST_SUITE_P(Each, AttachInputEnds,
                         testing::ValuesIn(protocolsWith([](const auto& p) { return p.endsInput; })), nameOf);

TEST_P(AttachInputEnds, EndsTheSessionNotTheContainersInput) {
  PROMISE("1.1.19 stdin end");
  Container container(pod, counter(), withInput(false));
  container.up();
  auto session = attach(container, kAll);
  session->write("line\n");
  session->waitFor("1 <line>\n");
  session->endInput();
  EXPECT_TRUE(ended(*session, seconds(10)).success);
  EXPECT_EQ(container.state(), v1::CONTAINER_RUNNING);
  auto again = attach(container, kAll);
  again->write("bye\n");
  EXPECT_EQ(ended(*again).out, "2 <bye>\n");
}

TEST_P(AttachInputEnds, WithStdinOnceItEndsTheContainersInput) {
  PROMISE("1.1.19 stdin_once");
  Container container(pod, counter(), withInput(true));
  container.up();
  auto session = attach(container, kAll);
  session->write("line\n");
  session->endInput();
  session->waitFor("end of input\n");
  EXPECT_THAT(session->out(), testing::HasSubstr("1 <line>\nend of input\n")) << "the session stays, to see the rest";
  container.stop(10);
  EXPECT_TRUE(ended(*session).success);
}

TEST_P(AttachInputEnds, PipedInputIsWholeWithStdinOnce) {
  PROMISE("1.1.19 stdin_once");
  auto container = Container::created(pod, shell("wc -c"), withInput(true));
  auto session = attach(container, kAll);
  auto writing = std::async(std::launch::async, [&] {
    session->write(std::string(1 << 20, 'x'));
    session->endInput();
  });
  std::this_thread::sleep_for(milliseconds(200));
  container.start();
  writing.get();
  auto outcome = ended(*session);
  EXPECT_EQ(outcome.out, "1048576\n");
  EXPECT_TRUE(outcome.success);
}

TEST_P(AttachInputEnds, FirstSessionWithInputDecides) {
  PROMISE("1.1.19 stdin_once");
  Container container(pod, counter(), withInput(true));
  container.up();
  auto watcher = attach(container, kOut);
  std::this_thread::sleep_for(milliseconds(200));
  watcher->drop();
  std::this_thread::sleep_for(milliseconds(500));
  EXPECT_EQ(container.out(), "up\n") << "a session without stdin does not end it";
  auto session = attach(container, kAll);
  session->write("line\n");
  session->waitFor("1 <line>\n");
  session->drop();
  container.waitForLine("end of input");
}

}  // namespace userpod::conformance

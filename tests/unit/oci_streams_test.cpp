// Commands whose streams the caller carries, and a container's own streams, inside a node that runs.
#include <gtest/gtest.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <csignal>
#include <filesystem>
#include <future>
#include <regex>
#include <thread>

#include "daemon/sys/child.hpp"
#include "tests/unit/oci_bed.hpp"

namespace userpod::oci {
namespace {

// Both runtimes, each with a PID namespace of the container's own and with the node's.
struct Kind {
  const char* handler;
  NamespaceMode pid;
};
const std::array kKinds = {Kind{"", NamespaceMode::Container}, Kind{"", NamespaceMode::Node},
                           Kind{"runc", NamespaceMode::Container}, Kind{"runc", NamespaceMode::Node}};

class OciStreams : public ::testing::TestWithParam<Kind> {};

std::string nameOf(const ::testing::TestParamInfo<Kind>& info) {
  return std::string(*info.param.handler != 0 ? info.param.handler : "crun") +
         (info.param.pid == NamespaceMode::Node ? "OfNode" : "");
}

// What comes until the end, or until `until` has come.
std::string readFrom(const UniqueFd& fd, const std::string& until = "") {
  std::string text;
  auto end = Clock::now() + 10s;
  while (Clock::now() < end && (until.empty() || text.find(until) == std::string::npos)) {
    pollfd entry{fd.get(), POLLIN, 0};
    if (::poll(&entry, 1, 100) <= 0) continue;
    std::array<char, 4096> buffer{};
    ssize_t count = ::read(fd.get(), buffer.data(), buffer.size());
    if (count < 0 && errno == EAGAIN) continue;
    if (count <= 0) return text;  // EIO of a terminal that nobody has open
    text.append(buffer.data(), static_cast<std::size_t>(count));
  }
  EXPECT_LT(Clock::now(), end) << "no end of stream after: " << text;
  return text;
}

// Lines of "number target", a pipe's without its own number.
std::string descriptorsOf(const std::string& process) {
  std::string text;
  auto numbers = namesIn("/proc/" + process + "/fd");
  std::sort(numbers.begin(), numbers.end());
  for (const auto& number : numbers) {
    std::string target = std::filesystem::read_symlink("/proc/" + process + "/fd/" + number);
    text += number + " " + target.substr(0, target.find(':')) + "\n";
  }
  return text;
}

// A container that runs, and commands in it.
class Running {
 public:
  explicit Running(const Kind& kind, const std::string& script = "sleep 1000") : bed(kind.handler) {
    auto config = shell(script);
    config.security.namespaces.pid = kind.pid;
    auto created = bed.create("c", config);
    EXPECT_TRUE(created) << created.error().text();
    auto started = bed.start("c");
    EXPECT_TRUE(started) << started.error().text();
  }
  std::string cgroup() const { return bed.node().cgroupRoot + bed.cgroup(bed.id("c")); }
  // In the end; those of killed processes go a moment later.
  int execCgroups() const {
    int count = 0;
    for (auto end = Clock::now() + 1s; Clock::now() < end; std::this_thread::sleep_for(1ms)) {
      count = 0;
      for (const auto& name : namesIn(cgroup())) count += name.starts_with("exec-") ? 1 : 0;
      if (count == 0) break;
    }
    return count;
  }
  // Of the one exec that sleeps, its number in the node.
  std::string sleepingExec() const {
    for (auto end = Clock::now() + 5s; Clock::now() < end; std::this_thread::sleep_for(1ms))
      for (const auto& name : namesIn(cgroup())) {
        auto list = name.starts_with("exec-") ? readFile(cgroup() + "/" + name + "/cgroup.procs") : std::string();
        auto number = list ? split(*list, '\n').front() : "";
        auto words = readFile("/proc/" + number + "/cmdline");
        if (!number.empty() && words && words->starts_with("sleep")) return number;
      }
    ADD_FAILURE() << "no exec sleeps";
    return "";
  }
  ExecStart command(std::vector<std::string> words) const {
    return {.id = bed.id("c"), .handler = bed.handler(), .bundle = bed.bundle("c"), .command = std::move(words)};
  }
  ExecStart script(const std::string& text) const { return command({"sh", "-c", text}); }

  Bed bed;
};

struct Session {
  Session(Running& running, const ExecStart& start) {
    running.bed.runtime().openExec(
        start, [this](Result<ExecStreams> streams) { started_.set_value(std::move(streams)); },
        [this](Result<std::int32_t> code) { ended_.set_value(std::move(code)); });
    if (startedSoon.wait_for(10s) != std::future_status::ready) ADD_FAILURE() << "neither started nor failed";
    auto result = startedSoon.get();
    if (result)
      streams = std::move(*result);
    else
      failure = result.error();
  }
  // -1: it failed; -2: it does not end.
  int code(std::chrono::milliseconds time = 10s) {
    if (endedSoon.wait_for(time) != std::future_status::ready) return -2;
    auto result = endedSoon.get();
    if (result) return *result;
    failure = result.error();
    return -1;
  }
  std::string failureText() const { return failure ? failure->text() : ""; }

  ExecStreams streams;
  std::optional<Error> failure;

 private:
  std::promise<Result<ExecStreams>> started_;
  std::promise<Result<std::int32_t>> ended_;
  std::future<Result<ExecStreams>> startedSoon = started_.get_future();
  std::future<Result<std::int32_t>> endedSoon = ended_.get_future();
};

TEST_P(OciStreams, Pipes) {
  if (!inNode()) return;
  Running running(GetParam());
  auto start = running.script("cat; echo end >&2; exit 7");
  start.in = start.out = start.err = true;
  Session session(running, start);
  ASSERT_FALSE(session.failure) << session.failureText();
  EXPECT_FALSE(session.streams.terminal);
  for (const UniqueFd* fd : {&session.streams.in, &session.streams.out, &session.streams.err}) {
    ASSERT_TRUE(*fd);
    EXPECT_NE(::fcntl(fd->get(), F_GETFL) & O_NONBLOCK, 0);
    EXPECT_NE(::fcntl(fd->get(), F_GETFD) & FD_CLOEXEC, 0);
  }
  ASSERT_TRUE(writeAll(session.streams.in.get(), "some words"));
  EXPECT_EQ(readFrom(session.streams.out, "words"), "some words");
  session.streams.in.reset();
  EXPECT_EQ(readFrom(session.streams.out), "");
  EXPECT_EQ(readFrom(session.streams.err), "end\n");
  EXPECT_EQ(session.code(), 7) << session.failureText();
  EXPECT_EQ(running.execCgroups(), 0);
}

TEST_P(OciStreams, HasNothingButItsStreams) {
  if (!inNode()) return;
  Running running(GetParam());
  auto start = running.script("echo ready >&2; exec sleep 1000");
  start.err = true;
  Session session(running, start);
  ASSERT_FALSE(session.failure) << session.failureText();
  EXPECT_FALSE(session.streams.in);
  EXPECT_FALSE(session.streams.out);
  readFrom(session.streams.err, "ready\n");
  EXPECT_EQ(descriptorsOf(running.sleepingExec()), "0 /dev/null\n1 /dev/null\n2 pipe\n");
  start = running.script("echo ready; exec sleep 1000");
  start.tty = true;
  Session terminal(running, start);
  ASSERT_FALSE(terminal.failure) << terminal.failureText();
  readFrom(terminal.streams.terminal, "ready\r\n");
  session.streams.hangUp();
  EXPECT_EQ(session.code(), 128 + SIGHUP);
  EXPECT_EQ(descriptorsOf(running.sleepingExec()), "0 /dev/pts/0\n1 /dev/pts/0\n2 /dev/pts/0\n");
  terminal.streams.hangUp();
  EXPECT_EQ(terminal.code(), 128 + SIGHUP);
}

TEST_P(OciStreams, CommandThatIsNotThere) {
  if (!inNode()) return;
  Running running(GetParam());
  for (bool tty : {false, true}) {
    auto start = running.command({"no-such-program"});
    start.tty = tty;
    start.in = start.out = true;
    Session session(running, start);
    ASSERT_TRUE(session.failure) << (tty ? "tty" : "pipes");
    EXPECT_EQ(session.failure->code(), Code::RuntimeFailed);
    EXPECT_NE(session.failureText().find("no-such-program"), std::string::npos) << session.failureText();
  }
  // A file that the kernel refuses is seen later than one that is not there.
  ASSERT_TRUE(writeFile(running.bed.rootfs() + "/bin/text", "no program", 0755));
  for (bool tty : {false, true}) {
    auto start = running.command({"/bin/text"});
    start.tty = tty;
    start.out = true;
    Session session(running, start);
    int code = session.failure ? -1 : session.code();
    // runc has left by then; its words are in the command's own output.
    EXPECT_EQ(code, *GetParam().handler == 0 ? -1 : 1) << session.failureText();
  }
  EXPECT_EQ(running.execCgroups(), 0);
}

TEST_P(OciStreams, EndsWithItsCommandWhoeverHoldsThePipes) {
  if (!inNode()) return;
  Running running(GetParam());
  auto start = running.script("sleep 0.5 && echo late & echo soon; exit 3");
  start.out = true;
  Session session(running, start);
  ASSERT_FALSE(session.failure) << session.failureText();
  auto begin = Clock::now();
  EXPECT_EQ(session.code(), 3);
  EXPECT_LT(Clock::now() - begin, 400ms);
  EXPECT_EQ(readFrom(session.streams.out), "soon\nlate\n");
}

TEST_P(OciStreams, ReaderThatGoesAway) {
  if (!inNode()) return;
  Running running(GetParam());
  auto start = running.command({"yes"});
  start.out = true;
  Session session(running, start);
  ASSERT_FALSE(session.failure) << session.failureText();
  readFrom(session.streams.out, "y\ny\n");
  session.streams.out.reset();
  EXPECT_EQ(session.code(), 128 + SIGPIPE);
  start = running.script("exec <&-; sleep 1000");
  start.in = true;
  Session input(running, start);
  ASSERT_FALSE(input.failure) << input.failureText();
  pollfd entry{input.streams.in.get(), POLLOUT, 0};
  for (auto end = Clock::now() + 5s; Clock::now() < end && (entry.revents & POLLERR) == 0;) ::poll(&entry, 1, 10);
  EXPECT_NE(entry.revents & POLLERR, 0) << "nobody but the command reads its input";
  input.streams.hangUp();
  EXPECT_EQ(input.code(), 128 + SIGHUP);
}

TEST_P(OciStreams, Terminal) {
  if (!inNode()) return;
  Running running(GetParam());
  auto start =
      running.script("tty; stty size; echo $TERM; stat -c %a:%g $(tty); echo ready; read line; echo got $line; exit 9");
  start.tty = true;
  start.size = {123, 45};
  Session session(running, start);
  ASSERT_FALSE(session.failure) << session.failureText();
  EXPECT_FALSE(session.streams.in || session.streams.out || session.streams.err);
  ASSERT_TRUE(session.streams.terminal);
  int terminal = session.streams.terminal.get();
  EXPECT_NE(::fcntl(terminal, F_GETFL) & O_NONBLOCK, 0);
  EXPECT_NE(::fcntl(terminal, F_GETFD) & FD_CLOEXEC, 0);
  std::string text = readFrom(session.streams.terminal, "ready\r\n");
  ASSERT_TRUE(writeAll(terminal, "words\n"));
  text += readFrom(session.streams.terminal);
  EXPECT_TRUE(std::regex_search(text, std::regex("/dev/pts/[0-9]+\r\n45 123\r\nxterm\r\n6[02]0:.*\r\n"))) << text;
  EXPECT_NE(text.find("got words\r\n"), std::string::npos) << text;
  EXPECT_EQ(session.code(), 9);
  EXPECT_EQ(running.execCgroups(), 0);
  EXPECT_EQ(namesIn(running.bed.paths().node + "/execs"), std::vector<std::string>());
}

TEST_P(OciStreams, TerminalSizeIsThereFirst) {
  if (!inNode()) return;
  Running running(GetParam());
  for (std::uint16_t i = 2; i <= 50; ++i) {
    auto start = running.command({"stty", "size"});
    start.tty = true;
    start.size = {static_cast<std::uint16_t>(100 + i), i};
    Session session(running, start);
    ASSERT_FALSE(session.failure) << session.failureText();
    EXPECT_EQ(readFrom(session.streams.terminal), std::to_string(i) + " " + std::to_string(100 + i) + "\r\n");
    EXPECT_EQ(session.code(), 0);
  }
}

TEST_P(OciStreams, TerminalControlsItsCommand) {
  if (!inNode()) return;
  Running running(GetParam());
  auto start = running.script("trap 'echo hung >/tmp/hung' HUP; echo ready; sleep 1000; echo after $?; sleep 1000");
  start.tty = true;
  Session session(running, start);
  ASSERT_FALSE(session.failure) << session.failureText();
  readFrom(session.streams.terminal, "ready\r\n");
  winsize size{33, 44, 0, 0};
  EXPECT_EQ(::ioctl(session.streams.terminal.get(), TIOCSWINSZ, &size), 0);
  ASSERT_TRUE(writeAll(session.streams.terminal.get(), "\x03"));
  EXPECT_EQ(session.code(), 128 + SIGINT);
  EXPECT_NE(readFrom(session.streams.terminal).find("^C"), std::string::npos);
  // The terminal's end is a hang-up by itself.
  start = running.script("echo ready; sleep 1000");
  start.tty = true;
  Session second(running, start);
  ASSERT_FALSE(second.failure) << second.failureText();
  readFrom(second.streams.terminal, "ready\r\n");
  second.streams.terminal.reset();
  EXPECT_EQ(second.code(), 128 + SIGHUP);
}

TEST_P(OciStreams, HangUp) {
  if (!inNode()) return;
  Running running(GetParam());
  auto start = running.script(
      "trap 'exit 4' HUP; (trap '' HUP; echo ready; sleep 1; echo survived >/tmp/survived) & while :; do sleep 0.1; "
      "done");
  start.out = true;
  Session session(running, start);
  ASSERT_FALSE(session.failure) << session.failureText();
  readFrom(session.streams.out, "ready\n");
  session.streams.hangUp();
  EXPECT_EQ(session.code(), 4);
  EXPECT_EQ(readFrom(session.streams.out), "");
  EXPECT_TRUE(pathExists(running.bed.rootfs() + "/tmp/survived"));
  session.streams.hangUp();
  EXPECT_TRUE(running.bed.exec("c", {"true"})) << "the container itself";
  ASSERT_TRUE(running.bed.runtime().remove(running.bed.id("c"), running.bed.handler()));
  session.streams.hangUp();
}

// A client may be gone before the command is there.
TEST_P(OciStreams, HangUpAtOnce) {
  if (!inNode()) return;
  Running running(GetParam());
  for (int i = 0; i < 20; ++i) {
    auto start = running.command({"sleep", "1000"});
    start.tty = i % 2 == 1;
    Session session(running, start);
    ASSERT_FALSE(session.failure) << session.failureText();
    session.streams.hangUp();
    ASSERT_EQ(session.code(), 128 + SIGHUP) << session.failureText();
  }
  EXPECT_EQ(running.execCgroups(), 0);
}

TEST_P(OciStreams, EndsWithItsContainer) {
  if (!inNode()) return;
  Running running(GetParam());
  auto start = running.script("trap '' HUP TERM; echo ready; while :; do sleep 1000; done");
  start.in = start.out = true;
  Session pipes(running, start);
  ASSERT_FALSE(pipes.failure) << pipes.failureText();
  start.tty = true;
  Session terminal(running, start);
  ASSERT_FALSE(terminal.failure) << terminal.failureText();
  readFrom(pipes.streams.out, "ready\n");
  readFrom(terminal.streams.terminal, "ready\r\n");
  ASSERT_TRUE(writeFile(running.cgroup() + "/cgroup.kill", "1"));
  EXPECT_EQ(pipes.code(), 128 + SIGKILL) << pipes.failureText();
  EXPECT_EQ(terminal.code(), 128 + SIGKILL) << terminal.failureText();
  EXPECT_EQ(readFrom(pipes.streams.out), "");
  EXPECT_EQ(readFrom(terminal.streams.terminal), "");
  EXPECT_EQ(running.bed.waitExit("c").code, 128 + SIGKILL);
  ASSERT_TRUE(running.bed.runtime().remove(running.bed.id("c"), running.bed.handler()));
  Session late(running, start);
  ASSERT_TRUE(late.failure || late.code() == -1);
  EXPECT_EQ(late.failure->code(), Code::InvalidState) << late.failureText();
}

TEST_P(OciStreams, RuntimeThatIsDestroyedHangsUp) {
  if (!inNode()) return;
  Running running(GetParam());
  auto start = running.script("trap 'echo hung >/tmp/hung; exit' HUP; echo ready; while :; do sleep 0.05; done");
  start.out = true;
  Session session(running, start);
  ASSERT_FALSE(session.failure) << session.failureText();
  readFrom(session.streams.out, "ready\n");
  running.bed.endRuntime();
  EXPECT_EQ(session.code(), -1);
  EXPECT_EQ(session.failure->code(), Code::Canceled);
  EXPECT_EQ(readFrom(session.streams.out), "");
  EXPECT_TRUE(pathExists(running.bed.rootfs() + "/tmp/hung"));
  running.bed.beginRuntime();
}

INSTANTIATE_TEST_SUITE_P(Each, OciStreams, ::testing::ValuesIn(kKinds), nameOf);

// A container of its own script that is attached to.
class Attached {
 public:
  Attached(const std::string& script, bool tty, bool in, bool once) {
    auto config = shell(script);
    config.tty = tty;
    config.stdinOpen = in;
    config.stdinOnce = once;
    auto created = bed.create("a", config, &log);
    EXPECT_TRUE(created) << created.error().text();
  }
  void start() {
    auto started = bed.start("a");
    EXPECT_TRUE(started) << started.error().text();
  }
  UniqueFd connect() {
    auto socket = connectMonitor(bed.bundle("a"));
    EXPECT_TRUE(socket) << socket.error().text();
    return socket ? std::move(*socket) : UniqueFd();
  }
  std::string logged(const std::string& wanted) {
    for (auto end = Clock::now() + 5s; Clock::now() < end; std::this_thread::sleep_for(1ms)) {
      auto text = readFile(log);
      if (text && text->find(wanted) != std::string::npos) return *text;
    }
    auto text = readFile(log);
    return text ? *text : "";
  }

  Bed bed;
  std::string log;
};

// Packets until the end or until `until` has come: their streams' numbers in `streams`, what they hold is the value.
std::string packets(const UniqueFd& socket, std::string& streams, const std::string& until = "") {
  std::string text;
  for (auto end = Clock::now() + 5s; Clock::now() < end && (until.empty() || text.find(until) == std::string::npos);) {
    pollfd entry{socket.get(), POLLIN, 0};
    if (::poll(&entry, 1, 100) <= 0) continue;
    std::array<char, (32 << 10) + 1> buffer{};
    ssize_t count = ::recv(socket.get(), buffer.data(), buffer.size(), 0);
    if (count < 0 && errno == EAGAIN) continue;
    if (count <= 0) return text + "<end>";
    streams += static_cast<char>('0' + buffer[0]);
    text.append(buffer.data() + 1, static_cast<std::size_t>(count - 1));
  }
  return text;
}

TEST(OciAttach, StreamsFromNowOn) {
  if (!inNode()) return;
  Attached container("echo early; read a; echo out $a; read b; echo err $b >&2; read c; exit 5", false, true, false);
  auto first = container.connect();
  container.start();
  std::string streams;
  EXPECT_EQ(packets(first, streams, "early\n"), "early\n");
  auto second = container.connect();
  EXPECT_NE(::fcntl(second.get(), F_GETFL) & O_NONBLOCK, 0);
  EXPECT_NE(::fcntl(second.get(), F_GETFD) & FD_CLOEXEC, 0);
  ASSERT_TRUE(writeAll(first.get(), "one\n"));
  std::string more;
  EXPECT_EQ(packets(second, more, "\n"), "out one\n") << "nothing from before";
  ASSERT_TRUE(writeAll(second.get(), "two\n"));
  EXPECT_EQ(packets(second, more, "\n"), "err two\n");
  EXPECT_EQ(packets(first, streams, "two\n"), "out one\nerr two\n");
  EXPECT_EQ(streams, "223");
  EXPECT_EQ(more, "23");
  second.reset();
  ASSERT_TRUE(writeAll(first.get(), "three\n"));
  EXPECT_EQ(packets(first, streams), "<end>");
  EXPECT_EQ(container.bed.waitExit("a").code, 5);
  first.reset();
  for (int i = 0; i < 100 && connectMonitor(container.bed.bundle("a")); ++i) std::this_thread::sleep_for(10ms);
  auto late = connectMonitor(container.bed.bundle("a"));
  ASSERT_FALSE(late);
  EXPECT_EQ(late.error().code(), Code::MonitorFailed) << late.error().text();
}

// What makes core::Core::detach necessary.
TEST(OciAttach, AnyCloseEndsTheInputOfStdinOnce) {
  if (!inNode()) return;
  Attached container("echo ready; while read a; do echo got $a; done; echo no more", false, true, true);
  container.start();
  container.logged("ready");
  auto only = container.connect();
  auto other = container.connect();
  ASSERT_TRUE(writeAll(other.get(), "one\n"));
  std::string streams;
  EXPECT_EQ(packets(only, streams, "one\n"), "got one\n");
  only.reset();
  EXPECT_NE(container.logged("no more").find("no more"), std::string::npos);
}

TEST(OciAttach, NoCloseEndsTheInputOfOthers) {
  if (!inNode()) return;
  Attached container("echo ready; while read a; do echo got $a; done; echo no more", false, true, false);
  container.start();
  container.logged("ready");
  for (int i = 0; i < 3; ++i) {
    auto socket = container.connect();
    ASSERT_TRUE(writeAll(socket.get(), std::to_string(i) + "\n"));
    std::string streams;
    EXPECT_EQ(packets(socket, streams, std::to_string(i) + "\n"), "got " + std::to_string(i) + "\n");
    ::shutdown(socket.get(), SHUT_WR);
  }
  auto socket = container.connect();
  ASSERT_TRUE(writeAll(socket.get(), "end\n"));
  EXPECT_NE(container.logged("got end").find("got end"), std::string::npos);
}

TEST(OciAttach, Terminal) {
  if (!inNode()) return;
  Attached container("stty size; trap 'stty size' WINCH; echo ready; while :; do read a && echo got $a; done", true,
                     true, false);
  ASSERT_TRUE(resizeTerminal(container.bed.bundle("a"), {80, 24})) << "of a created one";
  container.start();
  EXPECT_NE(container.logged("ready").find("24 80"), std::string::npos) << container.logged("ready");
  auto socket = container.connect();
  auto resized = resizeTerminal(container.bed.bundle("a"), {132, 43});
  ASSERT_TRUE(resized) << resized.error().text();
  std::string streams;
  EXPECT_EQ(packets(socket, streams, "132\r\n"), "43 132\r\n");
  ASSERT_TRUE(writeAll(socket.get(), "word\n"));
  EXPECT_EQ(packets(socket, streams, "got word\r\n"), "word\r\ngot word\r\n");
  EXPECT_EQ(streams.find_first_not_of('2'), std::string::npos) << streams;
  ASSERT_TRUE(container.bed.runtime().remove(container.bed.id("a"), ""));
  auto gone = resizeTerminal(container.bed.bundle("a"), {1, 1});
  ASSERT_FALSE(gone);
  EXPECT_EQ(gone.error().code(), Code::MonitorFailed) << gone.error().text();
}

}  // namespace
}  // namespace userpod::oci

// A container's log: its format, its file, and ReopenContainerLog.
#include <signal.h>
#include <sys/stat.h>

#include <filesystem>

#include "tests/conformance/world.hpp"

namespace userpod::conformance {
namespace {

namespace fs = std::filesystem;

// A line every 20 ms, numbered.
auto writer() {
  return shell("trap 'exit 0' TERM; i=0; while :; do i=$((i + 1)); echo line $i; usleep 20000; done");
}

void reopen(const Container& container) {
  call(ofContainer<v1::ReopenContainerLogRequest>(container.id()));
}

bool hasOutput(const std::string& path) {
  return fs::exists(path) && fs::file_size(path) > 0;
}

}  // namespace

TEST(Log, LinesHaveTimeStreamAndTag) {
  PROMISE("1.4 line");
  Pod pod;
  auto begin = std::time(nullptr);
  auto done = runToEnd(pod, shell("echo one; sleep 0.2; echo two >&2; echo; echo '  spaces and ünï '"));
  ASSERT_EQ(done.log.size(), 4U);
  EXPECT_EQ(done.out, "one\n\n  spaces and ünï \n");
  EXPECT_EQ(done.err, "two\n");
  for (const auto& line : done.log) {
    EXPECT_EQ(line.tag, "F");
    std::tm parts{};
    ASSERT_NE(strptime(line.time.c_str(), "%Y-%m-%dT%H:%M:%S", &parts), nullptr);
    EXPECT_THAT(line.time, testing::ContainsRegex("\\.[0-9]{1,9}(Z|[+-][0-9:]{5})$"));
    if (line.time.back() == 'Z' || line.time.substr(line.time.size() - 6) == "+00:00") {
      EXPECT_GE(timegm(&parts), begin - 1);
      EXPECT_LE(timegm(&parts), std::time(nullptr) + 1);
    }
  }
  EXPECT_LT(done.log[0].time, done.log.back().time);
}

TEST(Log, LongLineIsWrittenInParts) {
  PROMISE("1.4 partial");
  Pod pod;
  auto done = runToEnd(pod, shell("head -c 100000 /dev/zero | tr '\\0' x; echo; echo short"));
  ASSERT_GE(done.log.size(), 3U);
  EXPECT_EQ(done.out, std::string(100'000, 'x') + "\nshort\n");
  for (std::size_t line = 0; line + 2 < done.log.size(); ++line) {
    EXPECT_EQ(done.log[line].tag, "P");
    EXPECT_LE(done.log[line].text.size(), 16384U);
  }
  EXPECT_EQ(done.log[done.log.size() - 2].tag, "F");
}

TEST(Log, LastLineWithoutAnEndIsThere) {
  PROMISE("1.4 partial");
  Pod pod;
  auto done = runToEnd(pod, shell("echo whole; printf open"));
  auto text = done.out;
  if (text.back() == '\n') text.pop_back();
  EXPECT_EQ(text, "whole\nopen");
}

TEST(Log, ManyLinesAreAllThereInOrder) {
  PROMISE("1.4 line");
  Pod pod;
  auto done = runToEnd(pod, shell("seq 1 50000"));
  std::string wanted;
  for (int line = 1; line <= 50'000; ++line) wanted += std::to_string(line) + "\n";
  EXPECT_TRUE(done.out == wanted) << done.out.size() << " bytes instead of " << wanted.size();
}

TEST(Log, TerminalIsAllStdout) {
  PROMISE("1.4 tty");
  Pod pod;
  auto done = runToEnd(pod, shell("echo out; echo err >&2"), [](auto& c) { c.set_tty(true); });
  EXPECT_EQ(done.err, "");
  EXPECT_THAT(done.out, testing::HasSubstr("out"));
  EXPECT_THAT(done.out, testing::HasSubstr("err"));
}

TEST(Log, FileIsThereThoughNothingIsWritten) {
  PROMISE("1.4 file");
  Pod pod;
  Container container(pod, shell("sleep 3600"));
  EXPECT_EQ(container.status().log_path(), container.logPath());
  struct stat file{};
  ASSERT_EQ(stat(container.logPath().c_str(), &file), 0);
  EXPECT_EQ(file.st_size, 0);
  EXPECT_EQ(file.st_mode & 0137, 0U) << "readable by others: " << std::oct << file.st_mode;
}

TEST(Log, PathMayHaveDirectories) {
  PROMISE("1.4 file");
  Pod pod;
  auto done = runToEnd(pod, shell("echo here"), [](auto& c) { c.set_log_path("sub/0.log"); });
  EXPECT_EQ(done.out, "here\n");
  EXPECT_EQ(done.status.log_path(), pod.config().log_directory() + "/sub/0.log");
}

TEST(Log, PathCannotLeaveTheDirectory) {
  PROMISE("1.4 file");
  Pod pod;
  for (const auto* path : {"../escaped.log", "/var/tmp/userpod-escaped.log", "a/../../escaped.log"}) {
    auto config = containerConfig(pod, [&](auto& c) { c.set_log_path(path); });
    auto made = attempt(createRequest(pod, config));
    if (made.status.ok()) {
      auto shown = containerStatus(made.value.container_id()).log_path();
      EXPECT_THAT(fs::path(shown).lexically_normal().string(), testing::StartsWith(pod.config().log_directory()));
    }
  }
}

TEST(Log, WithoutPathThereIsNone) {
  PROMISE("1.4 file");
  Pod pod;
  Container container(pod, shell("echo lost; exit 2"), [](auto& c) { c.clear_log_path(); });
  EXPECT_EQ(container.ended().exit_code(), 2);
  EXPECT_TRUE(fs::is_empty(pod.config().log_directory()));
}

TEST(Log, EachContainerHasItsOwn) {
  PROMISE("1.4 file");
  Pod pod;
  Container one(pod, shell("echo one")), two(pod, shell("echo two"));
  one.ended();
  two.ended();
  EXPECT_EQ(one.out(), "one\n");
  EXPECT_EQ(two.out(), "two\n");
}

// ---- ReopenContainerLog

TEST(ReopenContainerLog, NewOutputGoesToANewFile) {
  PROMISE("1.1.16 reopen");
  Pod pod;
  Container container(pod, writer());
  auto path = container.logPath(), rotated = path + ".20260101-000000";
  waitUntil([&] { return hasOutput(path); }, "output");
  fs::rename(path, rotated);
  reopen(container);
  ASSERT_TRUE(fs::exists(path));
  auto size = fs::file_size(rotated);
  waitUntil([&] { return readLog(path).size() >= 3; }, "output in the new file");
  EXPECT_EQ(fs::file_size(rotated), size);
  // Nothing was lost or written twice.
  auto text = logText(readLog(rotated)) + logText(readLog(path));
  std::istringstream lines(text);
  int number = 0;
  for (std::string line; std::getline(lines, line);) EXPECT_EQ(line, "line " + std::to_string(++number));
  EXPECT_EQ(container.state(), v1::CONTAINER_RUNNING);
}

TEST(ReopenContainerLog, AgainAndAgain) {
  PROMISE("1.1.16 reopen");
  Pod pod;
  Container container(pod, writer());
  for (int turn = 0; turn < 5; ++turn) {
    waitUntil([&] { return hasOutput(container.logPath()); }, "output");
    fs::rename(container.logPath(), container.logPath() + "." + std::to_string(turn));
    reopen(container);
  }
  waitUntil([&] { return hasOutput(container.logPath()); }, "output");
  EXPECT_EQ(container.state(), v1::CONTAINER_RUNNING);
}

TEST(ReopenContainerLog, EndedContainerIsAnErrorOrHasANewFile) {
  PROMISE("1.1.16 ended");
  Pod pod;
  Container container(pod, shell("echo over"));
  container.ended();
  fs::rename(container.logPath(), container.logPath() + ".old");
  auto answer = attempt(ofContainer<v1::ReopenContainerLogRequest>(container.id()));
  EXPECT_EQ(answer.status.ok(), fs::exists(container.logPath()));
}

TEST(ReopenContainerLog, AnswersThoughTheMonitorHangs) {
  PROMISE("1.1.16 bounded");
  Pod pod;
  Container container(pod, writer());
  waitUntil([&] { return hasOutput(container.logPath()); }, "output");
  Suspended monitor(parentOf(container.pid()));
  fs::rename(container.logPath(), container.logPath() + ".old");
  auto answer = attempt(ofContainer<v1::ReopenContainerLogRequest>(container.id()), seconds(20));
  bool made = fs::exists(container.logPath());
  monitor.resume();
  EXPECT_NE(answer.status.error_message(), "Deadline Exceeded");
  EXPECT_EQ(answer.status.ok(), made);  // done, where logs are not the monitor's to write
  EXPECT_EQ(container.state(), v1::CONTAINER_RUNNING);
}

TEST(ReopenContainerLog, UnknownIsNotFound) {
  PROMISE("1.1.16 unknown");
  expectFailure(ofContainer<v1::ReopenContainerLogRequest>(kUnknown), {StatusCode::NOT_FOUND});
}

}  // namespace userpod::conformance

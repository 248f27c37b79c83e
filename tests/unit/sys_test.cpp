#include <gtest/gtest.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <cstdlib>
#include <fstream>
#include <future>

#include "daemon/sys/child.hpp"
#include "daemon/sys/executor.hpp"
#include "daemon/sys/fd.hpp"
#include "daemon/sys/memory.hpp"
#include "daemon/sys/mount.hpp"
#include "daemon/sys/rate.hpp"
#include "daemon/sys/util.hpp"
#include "daemon/sys/watches.hpp"

namespace userpod {
namespace {

using namespace std::chrono_literals;

std::string temporaryDirectory() {
  std::string name = ::testing::TempDir() + "/userpod-XXXXXX";
  return ::mkdtemp(name.data());
}

TEST(Error, TableGivesEachCodeItsNames) {
  EXPECT_EQ(codeName(Code::NoSuchPod), "NoSuchPod");
  EXPECT_EQ(grpcStatus(Code::NoSuchPod), 5);
  EXPECT_EQ(dbusErrorName(Code::InvalidArgument), "org.freedesktop.DBus.Error.InvalidArgs");
  EXPECT_EQ(sysError("write", ENOSPC).code(), Code::NoSpace);
  EXPECT_EQ(sysError("write", EPERM).text(), "write: Operation not permitted");
}

constexpr std::size_t kPage = 4096;
alignas(kPage) const std::array<char, 256 * kPage> kInTheFile = {1, 2, 3};

// Pages of files that this process has mapped: the third number of /proc/self/statm.
std::size_t filePages() {
  std::ifstream statm("/proc/self/statm");
  std::size_t all = 0, resident = 0, files = 0;
  statm >> all >> resident >> files;
  return files;
}

TEST(Memory, GivesBackWhatIsAsInItsFileAndNothingElse) {
  auto* bytes = const_cast<volatile char*>(kInTheFile.data());
  auto* page = const_cast<char*>(kInTheFile.data());
  ASSERT_EQ(::mprotect(page, kPage, PROT_READ | PROT_WRITE), 0);
  bytes[1] = 'x';  // as a debugger would
  ASSERT_EQ(::mprotect(page, kPage, PROT_READ), 0);
  for (std::size_t i = 0; i < kInTheFile.size(); i += kPage) (void)bytes[i];
  auto before = filePages();
  giveBackMemory();
  EXPECT_LT(filePages() + 250, before);
  EXPECT_EQ(bytes[0], 1);
  EXPECT_EQ(bytes[1], 'x');
  EXPECT_EQ(bytes[2], 3);
}

TEST(Child, ReportsExitCodeAndSignal) {
  auto exits = spawn({.argv = {"/bin/sh", "-c", "exit 7"}});
  ASSERT_TRUE(exits) << exits.error().text();
  EXPECT_EQ(exits->wait()->code, 7);
  auto killed = spawn({.argv = {"/bin/sleep", "60"}});
  ASSERT_TRUE(killed);
  EXPECT_FALSE(killed->waitFor(10ms)->has_value());
  ASSERT_TRUE(killed->kill(SIGKILL));
  auto status = killed->wait();
  EXPECT_EQ(status->signal, SIGKILL);
  EXPECT_EQ(status->code, 137);
}

TEST(Child, NamesTheStepThatFailed) {
  auto missing = spawn({.argv = {"/nonexistent/program"}});
  ASSERT_FALSE(missing);
  EXPECT_EQ(missing.error().sysErrno(), ENOENT);
  EXPECT_NE(missing.error().text().find("/nonexistent/program"), std::string::npos);
  auto directory = spawn({.argv = {"/bin/true"}, .directory = "/nonexistent"});
  ASSERT_FALSE(directory);
  EXPECT_NE(directory.error().text().find("change directory"), std::string::npos);
}

TEST(Child, PlacesDescriptorsThatOverlap) {
  auto first = makePipe();
  auto second = makePipe();
  // Each source number is the other's target.
  int a = first->write.get();
  int b = second->write.get();
  auto child =
      spawn({.argv = {"/bin/sh", "-c", "echo one >&" + std::to_string(b) + "; echo two >&" + std::to_string(a)},
             .descriptors = {{a, b}, {b, a}}});
  ASSERT_TRUE(child) << child.error().text();
  EXPECT_EQ(child->wait()->code, 0);
  first->write.reset();
  second->write.reset();
  EXPECT_EQ(*readAll(first->read.get(), 100), "one\n");
  EXPECT_EQ(*readAll(second->read.get(), 100), "two\n");
}

TEST(Child, GivesOnlyTheEnvironmentItWasTold) {
  ::setenv("NOTIFY_SOCKET", "/run/none", 1);
  auto output = run({.argv = {"/usr/bin/env"}, .environment = {"A=b"}}, 5s);
  ASSERT_TRUE(output);
  EXPECT_EQ(output->out, "A=b\n");
}

TEST(Child, RunKillsAtTheTimeAndCapsOutput) {
  auto late = run({.argv = {"/bin/sleep", "60"}}, 50ms);
  ASSERT_FALSE(late);
  EXPECT_EQ(late.error().code(), Code::Timeout);
  auto long_output = run({.argv = {"/usr/bin/head", "-c", "100000", "/dev/zero"}}, 5s, 1000);
  ASSERT_TRUE(long_output);
  EXPECT_EQ(long_output->out.size(), 1000U);
}

TEST(Text, ExcerptIsShortCleanAndUtf8) {
  EXPECT_EQ(excerpt("plain grün"), "plain grün");
  EXPECT_EQ(excerpt("a\nb\x1b[31m"), "a?b?[31m");
  EXPECT_EQ(excerpt("a\xff"), "a?");
  EXPECT_EQ(excerpt("grün", 3), "gr...");  // not in the middle of a character
  EXPECT_EQ(excerpt(std::string(1000, 'x'), 10), "xxxxxxxxxx...");
  EXPECT_EQ(excerpt("\x80\x80\x80", 1), "...");
}

TEST(Files, RemoveTreeOfAnyDepth) {
  std::string top = ::testing::TempDir() + "userpod-deep-" + randomHex(4);
  ASSERT_TRUE(makeDirectories(top));
  UniqueFd at(::open(top.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  for (int depth = 0; depth < 1000; ++depth) {
    for (const char* name : {"d", "e"}) ASSERT_EQ(::mkdirat(at.get(), name, 0700), 0);
    ASSERT_TRUE(openAt(at.get(), "file", O_WRONLY | O_CREAT));
    if (depth == 0) ::mkdirat(at.get(), ".removed-0", 0700);  // a name that is taken
    at.reset(::openat(at.get(), "d", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    ASSERT_TRUE(at);
  }
  auto removed = removeTree(top);
  EXPECT_TRUE(removed) << removed.error().text();
  EXPECT_FALSE(pathExists(top));
}

TEST(Files, RemoveTreeTakesUnreadableDirectoriesAndKeepsLinkTargets) {
  std::string top = temporaryDirectory();
  ASSERT_TRUE(makeDirectories(top + "/tree/a/b/c"));
  ASSERT_TRUE(writeFile(top + "/kept", "x"));
  ASSERT_TRUE(writeFile(top + "/tree/a/file", "x"));
  ASSERT_EQ(::symlink((top + "/kept").c_str(), (top + "/tree/a/link").c_str()), 0);
  ASSERT_EQ(::chmod((top + "/tree/a/b").c_str(), 0), 0);
  auto removed = removeTree(top + "/tree");
  EXPECT_TRUE(removed) << removed.error().text();
  EXPECT_FALSE(pathExists(top + "/tree"));
  EXPECT_TRUE(pathExists(top + "/kept"));
  EXPECT_TRUE(removeTree(top + "/tree"));
  EXPECT_TRUE(removeTree(top));
}

TEST(Files, RemoveTreeCanBeGivenUp) {
  std::string top = temporaryDirectory();
  ASSERT_TRUE(makeDirectories(top + "/a/b"));
  std::stop_source stop;
  stop.request_stop();
  EXPECT_EQ(removeTree(top, stop.get_token()).error().code(), Code::Canceled);
  EXPECT_TRUE(pathExists(top + "/a/b"));
  EXPECT_TRUE(removeTree(top));
  EXPECT_FALSE(pathExists(top));
}

TEST(Files, ReadFileRefusesMoreThanItsLimit) {
  std::string top = temporaryDirectory();
  ASSERT_TRUE(writeFileAtomic(top + "/f", "12345"));
  EXPECT_EQ(*readFile(top + "/f"), "12345");
  EXPECT_EQ(readFile(top + "/f", 4).error().code(), Code::LimitsExceeded);
  EXPECT_TRUE(removeTree(top));
}

TEST(EventLoop, RunsTasksTimersAndWatchesInOneThread) {
  auto loop = EventLoop::start("test");
  ASSERT_TRUE(loop);
  std::promise<std::string> result;
  auto pipe = makePipe();
  std::string order;
  (*loop)->post([&] {
    order += "a";
    (*loop)->runAfter(20ms, [&] {
      order += "c";
      (void)writeAll(pipe->write.get(), "x");
    });
    auto cancelled = (*loop)->runAfter(5ms, [&] { order += "!"; });
    (*loop)->cancel(cancelled);
    (void)(*loop)->watch(pipe->read.get(), EPOLLIN, [&](std::uint32_t) {
      (*loop)->unwatch(pipe->read.get());
      result.set_value(order + "d");
    });
  });
  (*loop)->post([&] { order += "b"; });
  EXPECT_EQ(result.get_future().get(), "abcd");
}

// On the loop's thread, as all that watches do.
void runIn(EventLoop& loop, const std::function<void()>& task) {
  std::promise<void> done;
  loop.post([&] {
    task();
    done.set_value();
  });
  done.get_future().get();
}

TEST(Watches, NameTheEntryAndEndWithTheirFile) {
  std::string top = temporaryDirectory();
  std::string file = top + "/file";
  ASSERT_TRUE(writeFile(file, "1"));
  auto loop = EventLoop::start("test");
  std::unique_ptr<Watches> watches;
  std::promise<std::string> entry;
  std::promise<std::string> whole;
  Watches::Id gone = 0;
  runIn(**loop, [&] {
    watches = std::move(*Watches::start(**loop));
    auto directory = watches->add(top, IN_MOVED_TO, [&](const std::string& name) { entry.set_value(name); });
    ASSERT_TRUE(directory);
    gone = *directory;
    ASSERT_TRUE(watches->add(file, IN_CLOSE_WRITE, [&](const std::string& name) { whole.set_value("file" + name); }));
    auto twice = watches->add(file, IN_MODIFY, [](const std::string&) {});
    ASSERT_FALSE(twice);
    EXPECT_EQ(twice.error().sysErrno(), EEXIST);
  });
  ASSERT_TRUE(writeFile(file, "2"));
  EXPECT_EQ(whole.get_future().get(), "file");
  ASSERT_EQ(::rename(file.c_str(), (top + "/other").c_str()), 0);
  EXPECT_EQ(entry.get_future().get(), "other");
  ASSERT_TRUE(removeTree(top));
  runIn(**loop, [&] { watches->remove(gone); });
  (*loop)->shutdown();
}

TEST(Watches, TellEverybodyAfterAnOverflow) {
  std::string top = temporaryDirectory();
  auto loop = EventLoop::start("test");
  std::unique_ptr<Watches> watches;
  int removed = 0;
  std::promise<void> told;
  // The loop is busy while more happens than the kernel's queue takes.
  runIn(**loop, [&] {
    watches = std::move(*Watches::start(**loop));
    for (const char* name : {"/many", "/quiet", "/removed"}) ASSERT_TRUE(makeDirectories(top + name, 0700));
    ASSERT_TRUE(watches->add(top + "/many", IN_CREATE | IN_DELETE, [](const std::string&) {}));
    ASSERT_TRUE(watches->add(top + "/quiet", IN_CREATE, [&](const std::string& name) {
      EXPECT_EQ(name, "");
      told.set_value();
    }));
    auto id = watches->add(top + "/removed", IN_CREATE, [&](const std::string&) { ++removed; });
    ASSERT_TRUE(id);
    watches->remove(*id);
    auto limit = readFile("/proc/sys/fs/inotify/max_queued_events");
    ASSERT_TRUE(limit);
    std::string file = top + "/many/file";
    for (long left = std::strtol(limit->c_str(), nullptr, 10); left >= 0; left -= 2) {
      ASSERT_EQ(::mkdir(file.c_str(), 0700), 0);
      ASSERT_EQ(::rmdir(file.c_str()), 0);
    }
  });
  told.get_future().get();
  EXPECT_EQ(removed, 0);
  (*loop)->shutdown();
  EXPECT_TRUE(removeTree(top));
}

TEST(Workers, RunEverythingBeforeTheyEnd) {
  std::atomic<int> count = 0;
  {
    Workers workers(3, "test");
    for (int i = 0; i < 100; ++i) workers.submit([&] { ++count; });
  }
  EXPECT_EQ(count, 100);
}

TEST(Workers, RunWhatIsQueuedAtTheirShutdownAndDropWhatComesLater) {
  Workers workers(1, "test");
  std::atomic<bool> queued = false;
  std::atomic<bool> dropped = false;
  workers.submit([&] {
    for (auto end = std::chrono::steady_clock::now() + 10s; !dropped && std::chrono::steady_clock::now() < end;) {
      auto token = std::make_shared<int>();
      workers.submit([token] {});
      dropped = token.use_count() == 1;
      std::this_thread::sleep_for(1ms);
    }
  });
  workers.submit([&] { queued = true; });
  workers.shutdown();
  EXPECT_TRUE(queued);
  EXPECT_TRUE(dropped) << "a task of theirs may submit while they end";
  workers.submit([] { ADD_FAILURE() << "nobody runs it"; });
  workers.shutdown();
}

TEST(Text, ChecksUtf8) {
  EXPECT_TRUE(isUtf8("gr\xc3\xbc\xc3\x9f \xf0\x9f\x98\x80"));
  EXPECT_FALSE(isUtf8("\xff"));
  EXPECT_FALSE(isUtf8("\xc0\xaf"));
  EXPECT_FALSE(isUtf8("\xed\xa0\x80"));
  EXPECT_FALSE(isUtf8("\xe2\x82"));
}

TEST(RateWindow, IsOfTheLastTwoSeconds) {
  using std::chrono::milliseconds;
  const RateWindow::Clock::time_point start{};
  RateWindow window;
  EXPECT_EQ(window.rate(start), 0U);
  window.add(start, 0);
  window.add(start + milliseconds(100), 100);
  EXPECT_EQ(window.rate(start + milliseconds(100)), 0U) << "too short a look";
  for (int i = 2; i <= 100; ++i) window.add(start + milliseconds(100 * i), 100U * i);
  EXPECT_EQ(window.rate(start + milliseconds(10'000)), 1000U);
  // From now on ten times as fast: known after two seconds, whatever came before.
  for (int i = 1; i <= 20; ++i) window.add(start + milliseconds(10'000 + 100 * i), 10'000U + 1000U * i);
  EXPECT_EQ(window.rate(start + milliseconds(12'000)), 10'000U);
  // Nothing comes any more.
  EXPECT_EQ(window.rate(start + milliseconds(13'000)), 5'000U);
  EXPECT_EQ(window.rate(start + milliseconds(14'000)), 0U);
  EXPECT_EQ(window.rate(start + milliseconds(60'000)), 0U);
}

TEST(RateWindow, BeginsAnewWhenTheWorkDoes) {
  using std::chrono::milliseconds;
  const RateWindow::Clock::time_point start{};
  RateWindow window;
  window.add(start, 0);
  window.add(start + milliseconds(1000), 1'000'000);
  window.add(start + milliseconds(1100), 0);
  window.add(start + milliseconds(1600), 500);
  EXPECT_EQ(window.rate(start + milliseconds(1600)), 1000U);
}

TEST(Mount, MountinfoIsReadWithItsEscapes) {
  auto found = parseMountinfo(
      "36 35 0:1 / /data/with\\040space rw,relatime shared:1 - overlay overlay rw\n"
      "37 35 0:2 / /data rw master:7 propagate_from:2 - ext4 /dev/sda rw\nbroken line\n39 1 - x\n"
      "40 35 0:4 net:[4026] /run/userpod/ns/a/net rw - nsfs nsfs rw\n");
  ASSERT_EQ(found.size(), 3U);
  EXPECT_EQ(found[0].target, "/data/with space");
  EXPECT_EQ(found[0].type, "overlay");
  EXPECT_TRUE(found[0].shared && !found[0].slave);
  EXPECT_EQ(found[1].target, "/data");
  EXPECT_TRUE(!found[1].shared && found[1].slave);
  EXPECT_EQ(found[2].target, "/run/userpod/ns/a/net");
  EXPECT_EQ(found[2].type, "nsfs");
}

}  // namespace
}  // namespace userpod

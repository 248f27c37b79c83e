// What keeps the daemon moving, and shows that it does: a journal that nobody waits for, the watchdog's pulse, and
// reloads that are answered.
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <csignal>
#include <functional>
#include <optional>
#include <string_view>
#include <thread>

#include "daemon/sys/child.hpp"
#include "daemon/sys/fd.hpp"
#include "daemon/sys/journal.hpp"
#include "daemon/sys/log.hpp"
#include "daemon/sys/pulse.hpp"
#include "daemon/sys/reload.hpp"

namespace userpod {
namespace {

using namespace std::chrono_literals;
using Clock = std::chrono::steady_clock;
using Sent = JournalSocket::Sent;

class Directory : public testing::Test {
 protected:
  Directory() { EXPECT_NE(::mkdtemp(top_.data()), nullptr); }
  ~Directory() override { EXPECT_TRUE(removeTree(top_)); }
  std::string top_ = "/var/tmp/userpod-liveness-XXXXXX";
};

class Journal : public Directory {
 protected:
  void serve() {
    server_.reset(::socket(AF_UNIX, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
    sockaddr_un address{.sun_family = AF_UNIX};
    path_.copy(address.sun_path, path_.size());
    ASSERT_EQ(::bind(server_.get(), reinterpret_cast<sockaddr*>(&address), sizeof address), 0);
  }
  // The next entry, or nothing.
  std::string take() {
    std::string entry(1 << 16, 0);
    auto size = ::recv(server_.get(), entry.data(), entry.size(), 0);
    entry.resize(static_cast<std::size_t>(std::max<ssize_t>(size, 0)));
    return entry;
  }
  // Until it takes no more; what it has taken.
  int fill(JournalSocket& journal) {
    int taken = 0;
    while (journal.send("MESSAGE=" + std::to_string(taken) + "\n") == Sent::Yes) ++taken;
    return taken;
  }

  std::string path_ = top_ + "/socket";
  UniqueFd server_;
};

TEST_F(Journal, EntriesArriveAsTheyAre) {
  serve();
  JournalSocket journal(path_);
  std::string entry;
  appendJournalField(entry, "MESSAGE", "one");
  appendJournalField(entry, "LINES", "a\nb");
  appendJournalField(entry, "LONG", std::string(100000, 'x'));
  EXPECT_EQ(journal.send(entry), Sent::Yes);
  auto got = take();
  EXPECT_EQ(got, entry);
  EXPECT_TRUE(got.starts_with(std::string("MESSAGE=one\nLINES\n\3\0\0\0\0\0\0\0a\nb\nLONG=xxx", 37)))
      << got.substr(0, 60);
  EXPECT_LT(got.size(), 20000U);
}

TEST_F(Journal, OneThatTakesNothingIsWaitedForOnceAndToldWhatItMissed) {
  serve();
  JournalSocket journal(path_);
  int taken = fill(journal);
  ASSERT_GT(taken, 0);
  auto begin = Clock::now();
  for (int i = 0; i < 1000; ++i) ASSERT_EQ(journal.send("MESSAGE=lost\n"), Sent::Full);
  EXPECT_LT(Clock::now() - begin, 1s) << "each of them waited";
  for (int i = 0; i < taken; ++i) EXPECT_EQ(take(), "MESSAGE=" + std::to_string(i) + "\n");
  EXPECT_EQ(journal.send("MESSAGE=after\n"), Sent::Yes);
  auto told = take();
  EXPECT_TRUE(told.starts_with("MESSAGE=1001 messages were lost while the journal took none\n")) << told;
  EXPECT_NE(told.find("\nLOST_MESSAGES=1001\n"), std::string::npos) << told;
  EXPECT_EQ(take(), "MESSAGE=after\n");
  EXPECT_EQ(take(), "");
}

TEST_F(Journal, ABurstIsNotLostOnAReaderThatFollowsAndWhatIsLostIsCounted) {
  serve();
  JournalSocket journal(path_);
  int count = fill(journal);
  for (int i = 0; i < count; ++i) take();
  std::atomic<bool> ended = false;
  int got = 0;
  int told = 0;
  std::jthread reader([&] {
    for (;;) {
      bool last = ended;
      std::string entry = take();
      constexpr std::string_view kLost = "LOST_MESSAGES=";
      if (auto at = entry.find(kLost); at != std::string::npos)
        told += std::stoi(entry.substr(at + kLost.size()));
      else if (!entry.empty())
        ++got;
      else if (last)
        return;
      else
        std::this_thread::yield();
    }
  });
  int sent = 1;
  int lost = 1;
  auto send = [&] {
    bool taken = journal.send("MESSAGE=burst\n") == Sent::Yes;
    ++sent;
    lost += !taken;
    return taken;
  };
  // A reader may be without processor time for longer than it is waited for, but not in each of them.
  bool whole = false;
  for (int burst = 0; burst < 10 && !whole; ++burst) {
    // What was lost is told with the next that goes out.
    for (auto end = Clock::now() + 10s; !send() && Clock::now() < end;) std::this_thread::sleep_for(1ms);
    int before = lost;
    for (int i = 0; i < 20 * count; ++i) send();
    whole = lost == before;
  }
  EXPECT_TRUE(whole);
  for (auto end = Clock::now() + 10s; !send() && Clock::now() < end;) std::this_thread::sleep_for(1ms);
  ended = true;
  reader.join();
  EXPECT_EQ(told, lost);
  EXPECT_EQ(got, sent - lost);
}

TEST_F(Journal, OneThatIsGoneIsFoundAgain) {
  JournalSocket journal(path_);
  EXPECT_EQ(journal.send("MESSAGE=early\n"), Sent::Gone);
  serve();
  EXPECT_EQ(journal.send("MESSAGE=one\n"), Sent::Yes);
  server_.reset();
  EXPECT_EQ(journal.send("MESSAGE=dead\n"), Sent::Gone);
  ASSERT_EQ(::unlink(path_.c_str()), 0);
  EXPECT_EQ(journal.send("MESSAGE=none\n"), Sent::Gone);
  journal.countLost();
  serve();
  EXPECT_EQ(journal.send("MESSAGE=two\n"), Sent::Yes);
  EXPECT_NE(take().find("LOST_MESSAGES=1\n"), std::string::npos);
  EXPECT_EQ(take(), "MESSAGE=two\n");
}

TEST(Log, ArgumentsAreFieldsToo) {
  ArgumentFields fields(1, ofPod("abc"), std::string("x"), Error(Code::NoSpace, "full", ENOSPC));
  LogFields want{{"POD_ID", "abc"}, {"USERPOD_ERROR", "NoSpace"}, {"ERRNO", "28"}};
  EXPECT_EQ(fields.fields(), want);
  EXPECT_EQ(fmt::format("pod {}: {}", ofPod("abc"), Error(Code::NoSpace, "full")), "pod abc: full");
  testing::internal::CaptureStderr();
  logFailure(Level::Warning, Error(Code::Busy, "in use"), {{"IMAGE", "i"}}, "removal");
  EXPECT_NE(testing::internal::GetCapturedStderr().find("removal: in use IMAGE=i USERPOD_ERROR=Busy"),
            std::string::npos);
}

TEST(Pulse, BeatsAsLongAsAllAnswer) {
  Pulse pulse(10s);
  std::vector<std::function<void()>> waiting;
  pulse.add("quick", [](const std::function<void()>& answer) { answer(); });
  pulse.add("slow", [&](std::function<void()> answer) { waiting.push_back(std::move(answer)); });
  const Pulse::Clock::time_point start{1h};
  EXPECT_EQ(pulse.look(start), Pulse::Look::Beat);
  EXPECT_EQ(pulse.look(start + 1ms), Pulse::Look::Nothing) << "a signal came between";
  EXPECT_EQ(pulse.next(), start + 10s) << "at rest it wakes once in each pause";
  EXPECT_EQ(pulse.look(start + 10s), Pulse::Look::Silent);
  EXPECT_EQ(pulse.silent(), "slow");
  EXPECT_EQ(waiting.size(), 1U) << "asked again before it has answered";
  waiting[0]();
  EXPECT_EQ(pulse.look(start + 11s), Pulse::Look::Beat);
  waiting[0]();  // late and again: no answer to the second
  EXPECT_EQ(pulse.look(start + 21s), Pulse::Look::Silent);
  waiting[1]();
  EXPECT_EQ(pulse.silent(), "");
  EXPECT_EQ(pulse.look(start + 22s), Pulse::Look::Beat);
}

TEST(Pulse, LooksEachSecondAtWhatIsSilentAndComplainsOnceInEachPause) {
  Pulse pulse(10s);
  std::function<void()> waiting;
  pulse.add("slow", [&](std::function<void()> answer) { waiting = std::move(answer); });
  const Pulse::Clock::time_point start{1h};
  EXPECT_EQ(pulse.look(start), Pulse::Look::Beat);
  int complaints = 0;
  auto now = pulse.next();
  for (; now < start + 29s; now = pulse.next()) {
    auto look = pulse.look(now);
    ASSERT_NE(look, Pulse::Look::Beat);
    complaints += look == Pulse::Look::Silent;
    ASSERT_LE(pulse.next(), now + 1s);
  }
  EXPECT_EQ(complaints, 2);
  waiting();
  EXPECT_LT(now, start + 30s);
  EXPECT_EQ(pulse.look(now), Pulse::Look::Beat) << "in time for a watchdog of three pauses";
  EXPECT_EQ(pulse.next(), now + 10s);
}

TEST(Pulse, APartThatIsBusyCountsAsAlive) {
  Pulse pulse(10s);
  std::vector<std::function<void()>> waiting;
  bool busy = true;
  pulse.add("bus", [&](std::function<void()> answer) { waiting.push_back(std::move(answer)); }, [&] { return busy; });
  const Pulse::Clock::time_point start{1h};
  for (int i = 0; i < 9; ++i) EXPECT_EQ(pulse.look(start + i * 10s), Pulse::Look::Beat);
  EXPECT_EQ(waiting.size(), 1U) << "questions must not pile up";
  busy = false;
  EXPECT_EQ(pulse.look(start + 90s), Pulse::Look::Silent);
  waiting[0]();
  EXPECT_EQ(pulse.look(start + 91s), Pulse::Look::Beat);
  EXPECT_EQ(waiting.size(), 2U);
}

// A daemon of another process: answers its requests one after the other.
class Reload : public Directory {
 protected:
  // With `status`, or never.
  pid_t daemon(std::optional<int> status) {
    int ready[2];
    EXPECT_EQ(::pipe(ready), 0);
    pid_t child = ::fork();
    if (child == 0) {
      sigset_t signals;
      sigemptyset(&signals);
      sigaddset(&signals, SIGHUP);
      ::sigprocmask(SIG_BLOCK, &signals, nullptr);
      (void)!::write(ready[1], "x", 1);
      for (;;) {
        int number = 0;
        ::sigwait(&signals, &number);
        if (!status) ::_exit(0);
        auto request = reloadRequest(top_);
        (void)answerReload(top_, "0123", {9, "another's"});
        (void)answerReload(top_, request, {*status, "line one\nline two"});
      }
    }
    char byte = 0;
    EXPECT_EQ(::read(ready[0], &byte, 1), 1);
    ::close(ready[0]);
    ::close(ready[1]);
    children_.push_back(child);
    return child;
  }
  ~Reload() override {
    for (pid_t child : children_) {
      ::kill(child, SIGKILL);
      ::waitpid(child, nullptr, 0);
    }
  }
  std::vector<pid_t> children_;
};

TEST_F(Reload, IsAnsweredWithItsOwnOutcome) {
  pid_t child = daemon(78);
  for (int i = 0; i < 3; ++i) {
    auto outcome = requestReload(top_, child, 10s);
    ASSERT_TRUE(outcome) << outcome.error().text();
    EXPECT_EQ(outcome->status, 78);
    EXPECT_EQ(outcome->text, "line one\nline two");
  }
  std::vector<std::jthread> several;
  for (int i = 0; i < 4; ++i)
    several.emplace_back([&] {
      auto outcome = requestReload(top_, child, 10s);
      EXPECT_TRUE(outcome && outcome->status == 78);
    });
}

TEST_F(Reload, OfADaemonThatEndsOrDoesNotAnswerIsAnError) {
  auto ended = requestReload(top_, daemon(std::nullopt), 10s);
  ASSERT_FALSE(ended);
  EXPECT_EQ(ended.error().code(), Code::NotReady);
  pid_t stopped = daemon(0);
  ::kill(stopped, SIGSTOP);
  auto late = requestReload(top_, stopped, 1s);
  ASSERT_FALSE(late);
  EXPECT_EQ(late.error().code(), Code::Timeout);
  EXPECT_FALSE(requestReload(top_, 1 << 22, 1s));
}

}  // namespace
}  // namespace userpod

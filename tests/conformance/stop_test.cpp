// StopContainer: signals, graces, and that all ends.
#include <signal.h>

#include <cstdlib>
#include <future>
#include <limits>

#include "tests/conformance/world.hpp"

namespace userpod::conformance {
namespace {

// Ends with a code for each signal.
const std::string kSignals =
    "trap 'exit 3' TERM; trap 'exit 4' USR1; trap 'exit 5' HUP; trap 'exit 6' 37; echo up; sleep 3600 & wait";
const std::string kDeaf = "trap '' TERM; echo up; while :; do sleep 1; done";
// Says that it was told, and takes some time.
const std::string kSlow = "trap 'echo told; sleep 2; exit 0' TERM; echo up; sleep 3600 & wait";

auto stopSignal(v1::Signal signal) {
  return [=](v1::ContainerConfig& config) { config.set_stop_signal(signal); };
}
void imageWithUsr1(v1::ContainerConfig& config) {
  config.mutable_image()->set_image(image("test/config:latest"));
}

milliseconds timeOf(const std::function<void()>& work) {
  auto begin = std::chrono::steady_clock::now();
  work();
  return std::chrono::duration_cast<milliseconds>(std::chrono::steady_clock::now() - begin);
}

std::future<void> inBackground(std::function<void()> work) {
  return std::async(std::launch::async, std::move(work));
}

}  // namespace

// ---- Signals

TEST(StopContainer, AsksBySigterm) {
  PROMISE("1.1.10 signal");
  Pod pod;
  Container container(pod, shell(kSignals));
  EXPECT_EQ(container.status().stop_signal(), v1::SIGNAL_SIGTERM);
  container.up().stop(30);
  EXPECT_EQ(container.status().exit_code(), 3);
}

TEST(StopContainer, AsksByTheSignalOfTheImage) {
  PROMISE("1.1.10 signal");
  Pod pod;
  Container container(pod, shell(kSignals), imageWithUsr1);
  EXPECT_EQ(container.status().stop_signal(), v1::SIGNAL_SIGUSR1);
  container.up().stop(30);
  EXPECT_EQ(container.status().exit_code(), 4);
}

TEST(StopContainer, AsksByTheSignalOfTheConfigFirst) {
  PROMISE("1.1.10 signal");
  Pod pod;
  Container container(pod, shell(kSignals), imageWithUsr1, stopSignal(v1::SIGNAL_SIGHUP));
  EXPECT_EQ(container.status().stop_signal(), v1::SIGNAL_SIGHUP);
  container.up().stop(30);
  EXPECT_EQ(container.status().exit_code(), 5);
}

TEST(StopContainer, AsksByARealTimeSignal) {
  PROMISE("1.1.10 signal");
  Pod pod;
  Container container(pod, shell(kSignals), stopSignal(v1::SIGNAL_SIGRTMINPLUS3));
  container.up().stop(30);
  EXPECT_EQ(container.status().exit_code(), 6);
}

TEST(StopContainer, PodsStopUsesTheSignalToo) {
  PROMISE("1.1.10 signal");
  Pod pod;
  Container container(pod, shell(kSignals), stopSignal(v1::SIGNAL_SIGUSR1));
  container.up();
  pod.stop();
  EXPECT_EQ(container.status().exit_code(), 4);
}

// ---- Grace

TEST(StopContainer, TimeoutOfZeroKillsAtOnce) {
  PROMISE("1.1.10 zero");
  Pod pod;
  Container container(pod, shell(kSignals));
  container.up().stop(0);
  EXPECT_EQ(container.state(), v1::CONTAINER_EXITED);
  EXPECT_EQ(container.status().exit_code(), 137);
}

TEST(StopContainer, KillsAfterTheGrace) {
  PROMISE("1.1.10 grace");
  Pod pod;
  Container container(pod, shell(kDeaf));
  container.up();
  auto took = timeOf([&] { container.stop(1); });
  EXPECT_GE(took, milliseconds(950));
  EXPECT_LE(took, patience(milliseconds(2500)));
  EXPECT_EQ(container.status().exit_code(), 137);
}

TEST(StopContainer, DoesNotWaitForTheGraceToEnd) {
  PROMISE("1.1.10 grace");
  Pod pod;
  Container container(pod, shell(kSignals));
  container.up();
  EXPECT_LE(timeOf([&] { container.stop(60); }), patience(seconds(3)));
}

TEST(StopContainer, ReturnsWhenTheProcessIsDead) {
  PROMISE("1.1.10 dead");
  Pod pod;
  Container container(pod, shell(kSlow));
  auto pid = container.up().pid();
  container.stop(30);
  EXPECT_NE(kill(pid, 0), 0);
  EXPECT_EQ(container.state(), v1::CONTAINER_EXITED);
  EXPECT_EQ(container.status().exit_code(), 0);
}

TEST(StopContainer, ShorterTimeoutShortensTheGrace) {
  PROMISE("1.1.10 shorter");
  Pod pod;
  Container container(pod, shell(kDeaf));
  container.up();
  auto first = inBackground([&] { container.stop(300); });
  std::this_thread::sleep_for(milliseconds(300));
  auto took = timeOf([&] {
    container.stop(1);
    first.get();
  });
  EXPECT_GE(took, milliseconds(950));
  EXPECT_LE(took, patience(milliseconds(3000)));
  EXPECT_EQ(container.status().exit_code(), 137);
}

TEST(StopContainer, ZeroEndsARunningGrace) {
  PROMISE("1.1.10 shorter");
  Pod pod;
  Container container(pod, shell(kDeaf));
  container.up();
  auto first = inBackground([&] { container.stop(300); });
  std::this_thread::sleep_for(milliseconds(300));
  EXPECT_LE(timeOf([&] { container.stop(0); }), patience(milliseconds(1500)));
  first.get();
}

TEST(StopContainer, LongerTimeoutDoesNotExtendTheGrace) {
  PROMISE("1.1.10 longer");
  Pod pod;
  Container container(pod, shell(kDeaf));
  container.up();
  auto took = timeOf([&] {
    auto first = inBackground([&] { container.stop(2); });
    std::this_thread::sleep_for(milliseconds(300));
    container.stop(300);
    first.get();
  });
  EXPECT_GE(took, milliseconds(1950));
  EXPECT_LE(took, patience(milliseconds(4000)));
}

TEST(StopContainer, GoesOnWithoutItsClient) {
  PROMISE("1.1.10 client");
  Pod pod;
  Container container(pod, shell(kDeaf));
  container.up();
  int grace = options().slow ? 8 : 2;
  auto request = with<v1::StopContainerRequest>([&](auto& r) {
    r.set_container_id(container.id());
    r.set_timeout(grace);
  });
  EXPECT_EQ(attempt(request, seconds(1)).status.error_code(), StatusCode::DEADLINE_EXCEEDED);
  EXPECT_EQ(container.state(), v1::CONTAINER_RUNNING);
  EXPECT_EQ(container.ended().exit_code(), 137);
}

TEST(StopContainer, DoesNotBlockOthers) {
  PROMISE("1.1.10 others");
  Pod pod;
  Container deaf(pod, shell(kDeaf)), other(pod);
  deaf.up();
  auto stopping = inBackground([&] { deaf.stop(4); });
  std::this_thread::sleep_for(milliseconds(200));
  EXPECT_LE(timeOf([&] {
              EXPECT_EQ(deaf.state(), v1::CONTAINER_RUNNING);
              call(v1::ListContainersRequest());
              other.up().stop(30);
              runToEnd(pod, shell("exit 0"));
            }),
            patience(milliseconds(2000)));
  deaf.stop(0);
  stopping.get();
}

TEST(StopContainer, AgainAndUnknownIsFine) {
  PROMISE("1.1.10 idempotent");
  Pod pod;
  Container container(pod);
  container.up();
  atOnce(4, [&] { return container.stop(20), 0; });
  container.stop(20);
  EXPECT_EQ(container.status().exit_code(), 0);
  stopContainer(kUnknown, 5);
  expectFailure(with<v1::StopContainerRequest>([&](auto& r) {
    r.set_container_id(container.id());
    r.set_timeout(-1);
  }));
}

TEST(StopContainer, EndsACreatedOne) {
  PROMISE("1.1.10 created");
  Pod pod;
  auto container = Container::created(pod);
  auto pid = container.pid();
  EXPECT_LE(timeOf([&] { container.stop(30); }), patience(seconds(3)));
  EXPECT_EQ(container.state(), v1::CONTAINER_EXITED);
  EXPECT_NE(kill(pid, 0), 0);
  EXPECT_EQ(container.out(), "");
  EXPECT_GT(container.status().finished_at(), 0);
}

TEST(StopContainer, LargestTimeoutIsAGrace) {
  PROMISE("1.1.10 grace");
  Pod pod;
  for (auto grace : {std::int64_t{1} << 40, std::numeric_limits<std::int64_t>::max()}) {
    Container container(pod, shell(kSignals));
    container.up();
    call(with<v1::StopContainerRequest>([&](auto& r) {
      r.set_container_id(container.id());
      r.set_timeout(grace);
    }));
    EXPECT_EQ(container.status().exit_code(), 3);
  }
}

TEST(StopContainer, ResumesAPausedContainerFirst) {
  PROMISE("1.1.10 paused");
  if (options().pause.empty()) GTEST_SKIP() << "no --pause command";
  Pod pod;
  Container container(pod, shell(kSignals));
  container.up();
  ASSERT_EQ(std::system((options().pause + " " + container.id()).c_str()), 0);
  EXPECT_THAT(readFile(cgroupOf(container.pid()) + "/cgroup.events"), testing::HasSubstr("frozen 1"));
  EXPECT_EQ(container.state(), v1::CONTAINER_RUNNING);
  container.stop(30);
  EXPECT_EQ(container.status().exit_code(), 3);
}

TEST(StopContainer, KillsAPausedContainer) {
  PROMISE("1.1.10 paused");
  if (options().pause.empty()) GTEST_SKIP() << "no --pause command";
  Pod pod;
  Container killed(pod, shell(kDeaf)), removed(pod, shell(kDeaf)), resumed(pod, shell(kSignals));
  for (const auto* one : {&killed, &removed, &resumed}) {
    one->up();
    ASSERT_EQ(std::system((options().pause + " " + one->id()).c_str()), 0);
  }
  EXPECT_LE(timeOf([&] { killed.stop(0); }), patience(seconds(3)));
  EXPECT_EQ(killed.status().exit_code(), 137);
  removed.remove();
  ASSERT_EQ(std::system((options().resume + " " + resumed.id()).c_str()), 0);
  EXPECT_EQ(resumed.text("echo again"), "again");
}

// ---- Processes

TEST(StopContainer, WholeTreeEnds) {
  PROMISE("1.1.10 tree");
  for (auto pid : {v1::CONTAINER, v1::POD, v1::NODE}) {
    Pod pod([&](auto& c) { namespacesOf(c)->set_pid(pid); });
    auto marker = uniqueName("marker");
    // A child that hears of no signal, in a session of its own, and one of an exec.
    auto child = "setsid sh -c \"trap '' TERM HUP INT; while :; do sleep 1; done; echo " + marker + "\" & ";
    Container container(pod, shell(child + "trap 'exit 0' TERM; echo up; sleep 3600 & wait"));
    container.up();
    auto exec = inBackground([&] {
      attempt(with<v1::ExecSyncRequest>([&](auto& r) {
        r.set_container_id(container.id());
        for (const auto& word : {std::string("/bin/sh"), std::string("-c"), child + "exit 0"}) r.add_cmd(word);
      }));
    });
    waitUntil([&] { return processesWith("done; echo " + marker).size() >= 2; }, "the children");
    container.stop(10);
    EXPECT_EQ(container.status().exit_code(), 0);
    waitUntil([&] { return processesWith(marker).empty(); }, "the end of all children, PID mode " + std::to_string(pid),
              seconds(3));
  }
}

TEST(StopContainer, EndOfTheFirstProcessEndsTheTree) {
  PROMISE("1.1.10 tree");
  for (auto pid : {v1::CONTAINER, v1::POD}) {
    Pod pod([&](auto& c) { namespacesOf(c)->set_pid(pid); });
    auto marker = uniqueName("marker");
    Container container(pod, shell("setsid sh -c 'sleep 3600; echo " + marker + "' & sleep 0.3; exit 9"));
    EXPECT_EQ(container.ended().exit_code(), 9);
    waitUntil([&] { return processesWith(marker).empty(); }, "the end of all children, PID mode " + std::to_string(pid),
              seconds(3));
  }
}

// ---- Exec meanwhile

TEST(StopContainer, ExecWorksDuringTheGrace) {
  PROMISE("1.1.10 exec");
  Pod pod;
  Container container(pod, shell(kSlow));
  container.up();
  auto stopping = inBackground([&] { container.stop(30); });
  container.waitForLine("told");
  EXPECT_EQ(container.text("echo still here"), "still here");
  stopping.get();
  expectFailure(with<v1::ExecSyncRequest>([&](auto& r) {
    r.set_container_id(container.id());
    r.add_cmd("true");
  }));
}

// The monitor cannot tell of the end as long as it is stopped itself: so long the kill goes on.
TEST(StopContainer, NoExecAfterTheKillBegan) {
  PROMISE("1.1.10 exec");
  Pod pod;
  Container container(pod, shell(kDeaf));
  auto pid = container.up().pid();
  std::future<void> stopping;  // ends after the monitor goes on
  Suspended monitor(parentOf(pid));
  stopping = inBackground([&] { container.stop(0); });
  auto killed = [&] {
    auto text = readFile("/proc/" + std::to_string(pid) + "/stat");
    return text[text.rfind(')') + 2] == 'Z';
  };
  waitUntil(killed, "the end of the process");
  auto exec = attempt(with<v1::ExecSyncRequest>([&](auto& r) {
    r.set_container_id(container.id());
    r.add_cmd("true");
  }));
  monitor.resume();
  stopping.get();
  // Refused for its state, and not tried in vain.
  EXPECT_THAT(exec.status.error_code(), testing::AnyOf(StatusCode::FAILED_PRECONDITION, StatusCode::NOT_FOUND))
      << exec.status.error_message();
}

TEST(StopContainer, ExecUnderWayEndsAfterTheContainer) {
  PROMISE("1.1.10 exec");
  Pod pod;
  Container container(pod, shell(kSlow));
  auto marker = uniqueName("marker");
  container.up();
  auto exec = std::async(std::launch::async, [&] {
    return attempt(with<v1::ExecSyncRequest>([&](auto& r) {
      r.set_container_id(container.id());
      for (const auto& word : {std::string("/bin/sh"), std::string("-c"), "sleep 3600; echo " + marker})
        r.add_cmd(word);
    }));
  });
  waitUntil([&] { return !processesWith("sleep 3600; echo " + marker).empty(); }, "the exec");
  auto stopping = inBackground([&] { container.stop(30); });
  container.waitForLine("told");
  EXPECT_FALSE(processesWith(marker).empty()) << "killed during the grace";
  stopping.get();
  waitUntil([&] { return processesWith(marker).empty(); }, "the end of the exec", seconds(3));
  auto answer = exec.get();
  EXPECT_TRUE(!answer.status.ok() || answer.value.exit_code() != 0);
}

}  // namespace userpod::conformance

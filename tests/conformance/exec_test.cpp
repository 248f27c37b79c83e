// ExecSync.
#include <signal.h>
#include <unistd.h>

#include <limits>
#include <sstream>

#include "tests/conformance/world.hpp"

namespace userpod::conformance {
namespace {

constexpr std::size_t kMiB = 1 << 20;
constexpr std::size_t kLargestMessage = 16 * kMiB;  // what clients of Kubernetes take

v1::ExecSyncRequest request(const std::string& id, const std::vector<std::string>& words, int timeout = 0) {
  return with<v1::ExecSyncRequest>([&](auto& r) {
    r.set_container_id(id);
    for (const auto& word : words) r.add_cmd(word);
    r.set_timeout(timeout);
  });
}
v1::ExecSyncRequest script(const Container& container, const std::string& text, int timeout = 0) {
  return request(container.id(), {"/bin/sh", "-c", text}, timeout);
}

struct Timed {
  milliseconds took;
  Answer<v1::ExecSyncResponse> answer;
};
Timed timed(const v1::ExecSyncRequest& request) {
  auto begin = std::chrono::steady_clock::now();
  auto answer = attempt(request, seconds(20));
  return {std::chrono::duration_cast<milliseconds>(std::chrono::steady_clock::now() - begin), std::move(answer)};
}

// A time-out answers either by its code or as a command that failed.
bool timedOut(const Answer<v1::ExecSyncResponse>& answer) {
  if (answer.status.ok()) return answer.value.exit_code() != 0;
  return answer.status.error_code() == StatusCode::DEADLINE_EXCEEDED;
}

}  // namespace

// ---- Output and exit code

TEST(ExecSync, StreamsAndExitCodeAreApart) {
  PROMISE("1.1.17 output");
  Pod pod;
  Container container(pod);
  auto got = container.exec("echo out; echo err >&2; exit 7");
  EXPECT_EQ(got.out, "out\n");
  EXPECT_EQ(got.err, "err\n");
  EXPECT_EQ(got.code, 7);
  EXPECT_EQ(container.up().out(), "up\n") << "in the container's log";
}

TEST(ExecSync, OutputIsByteForByte) {
  PROMISE("1.1.17 output");
  Pod pod;
  Container container(pod);
  auto got = container.exec("printf 'a\\000\\377\\r\\n\\n'; printf '\\200' >&2");
  EXPECT_EQ(got.out, std::string("a\0\xff\r\n\n", 6));
  EXPECT_EQ(got.err, "\x80");
  EXPECT_EQ(container.exec("true").out, "");
}

TEST(ExecSync, WordsArriveUnchanged) {
  PROMISE("1.1.17 output");
  Pod pod;
  Container container(pod);
  auto got = container.execWords({"printf", "<%s>", "two words", "", "$HOME", "'\"\\", "ünï", "a\nb"});
  EXPECT_EQ(got.out, "<two words><><$HOME><'\"\\><ünï><a\nb>");
}

TEST(ExecSync, ExitCodesAreThoseOfTheCommand) {
  PROMISE("1.1.17 exit code");
  for (auto pid : {v1::CONTAINER, v1::POD, v1::NODE}) {
    Pod pod([&](auto& c) { namespacesOf(c)->set_pid(pid); });
    Container container(pod);
    for (int code : {0, 1, 126, 127, 255}) EXPECT_EQ(container.exec("exit " + std::to_string(code)).code, code);
    EXPECT_EQ(container.exec("kill -9 $$").code, 137);
    EXPECT_EQ(container.exec("kill -15 $$").code, 143);
  }
}

TEST(ExecSync, CommandThatIsNotThereFails) {
  PROMISE("1.1.17 exit code");
  for (auto pid : {v1::CONTAINER, v1::POD, v1::NODE}) {
    Pod pod([&](auto& c) { namespacesOf(c)->set_pid(pid); });
    Container container(pod);
    auto answer = attempt(request(container.id(), {"/no/such/program"}));
    if (answer.status.ok()) {
      EXPECT_NE(answer.value.exit_code(), 0);
    } else {
      EXPECT_THAT(answer.status.error_message(), testing::HasSubstr("/no/such/program"));
    }
  }
}

TEST(ExecSync, HasNoInput) {
  PROMISE("1.1.17 output");
  Pod pod;
  Container container(pod);
  auto got = timed(script(container, "cat; echo over; test -t 1 || echo no terminal"));
  EXPECT_EQ(got.answer.value.stdout(), "over\nno terminal\n");
  EXPECT_LE(got.took, patience(seconds(5)));
}

// ---- Errors

TEST(ExecSync, EmptyCommandIsAnError) {
  PROMISE("1.1.17 errors");
  Pod pod;
  Container container(pod);
  expectFailure(request(container.id(), {}));
  expectFailure(request(container.id(), {""}));
  expectFailure(request(container.id(), {"true"}, -1));
}

TEST(ExecSync, UnknownIsNotFound) {
  PROMISE("1.1.17 errors");
  expectFailure(request(kUnknown, {"true"}), {StatusCode::NOT_FOUND});
}

TEST(ExecSync, NeedsARunningContainer) {
  PROMISE("1.1.17 errors");
  Pod pod;
  auto created = Container::created(pod);
  expectFailure(request(created.id(), {"true"}), {}, "running|state");
  created.start();
  EXPECT_EQ(created.exec("echo runs").out, "runs\n");
  created.up().stop(30);
  expectFailure(request(created.id(), {"true"}), {}, "running|state");
}

TEST(ExecSync, StartOfTheIdIsEnough) {
  PROMISE("1.0 prefix");
  Pod pod;
  Container container(pod);
  auto start = container.id().substr(0, 13);
  EXPECT_EQ(call(request(start, {"echo", "runs"})).stdout(), "runs\n");
  EXPECT_EQ(containerStatus(start).id(), container.id());
  stopContainer(start);
  EXPECT_EQ(container.state(), v1::CONTAINER_EXITED);
}

// ---- Where it runs

TEST(ExecSync, RunsAsTheContainerDoes) {
  PROMISE("1.1.17 context");
  Pod pod;
  Container container(pod, [](auto& c) {
    auto* security = securityOf(c);
    security->mutable_run_as_user()->set_value(1000);
    security->mutable_run_as_group()->set_value(1001);
    security->add_supplemental_groups(1002);
    security->mutable_capabilities()->add_drop_capabilities("ALL");
    security->mutable_capabilities()->add_add_capabilities("NET_BIND_SERVICE");
    security->mutable_capabilities()->add_add_ambient_capabilities("NET_BIND_SERVICE");
    security->set_no_new_privs(true);
    security->mutable_seccomp()->set_profile_type(v1::SecurityProfile::RuntimeDefault);
    c.set_working_dir("/tmp");
    auto* env = c.add_envs();
    env->set_key("OF_CONTAINER");
    env->set_value("yes");
  });
  container.up();
  EXPECT_EQ(container.text("pwd; echo $OF_CONTAINER"), "/tmp\nyes");
  auto fields = "grep -E '^(Uid|Gid|Groups|Cap|NoNewPrivs|Seccomp:)' /proc/";
  EXPECT_EQ(container.text(std::string(fields) + "self/status"), container.text(std::string(fields) + "1/status"));
  EXPECT_EQ(container.text("id -u; id -g"), "1000\n1001");
}

TEST(ExecSync, RunsInTheNamespacesAndControlGroupOfTheContainer) {
  PROMISE("1.1.17 accounting");
  Pod pod;
  Container container(pod);
  auto marker = uniqueName("marker");
  auto running =
      std::async(std::launch::async, [&] { return attempt(script(container, "sleep 3600; echo " + marker)); });
  waitUntil([&] { return processesWith("sleep 3600; echo " + marker).size() >= 1; }, "the exec");
  auto first = container.pid();
  bool found = false;
  for (auto pid : processesWith("sleep 3600; echo " + marker)) {
    if (namespaceOf(pid, "pid") != namespaceOf(first, "pid")) continue;  // the OCI runtime, with the same words
    found = true;
    for (const auto* name : {"net", "ipc", "uts", "mnt", "user", "cgroup"})
      EXPECT_EQ(namespaceOf(pid, name), namespaceOf(first, name)) << name;
    EXPECT_THAT(cgroupOf(pid) + "/", testing::StartsWith(cgroupOf(first) + "/"));
  }
  EXPECT_TRUE(found);
  container.stop();
  running.get();
}

std::int64_t usage(const Container& container, const std::string& file, const std::string& key = "") {
  std::istringstream words(readFile(cgroupOf(container.pid()) + "/" + file));
  std::string word;
  while (!key.empty() && words >> word && word != key) {
  }
  std::int64_t value = -1;
  words >> value;
  return value;
}

TEST(ExecSync, ProcessorTimeIsAccountedToTheContainer) {
  PROMISE("1.1.17 accounting");
  Pod pod;
  Container container(pod);
  container.up();
  auto before = usage(container, "cpu.stat", "usage_usec");
  container.text(
      "dd if=/dev/zero of=/dev/null bs=1M count=5000 2>/dev/null; i=0; while [ $i -lt 100000 ]; do i=$((i + 1)); done");
  EXPECT_GT(usage(container, "cpu.stat", "usage_usec"), before + 50'000);
}

TEST(ExecSync, MemoryIsAccountedToTheContainer) {
  PROMISE("1.1.17 accounting");
  Pod pod;
  Container container(pod);
  if (!hasController(container, "memory")) GTEST_SKIP() << "the memory controller is not delegated here";
  container.up();
  auto before = usage(container, "memory.current");
  container.text("head -c 40000000 /dev/zero > /dev/shm/fill");
  EXPECT_GT(usage(container, "memory.current"), before + 35'000'000);
}

TEST(ExecSync, BeyondTheMemoryLimitItEndsAlone) {
  PROMISE("1.1.17 accounting");
  Pod pod;
  Container container(pod,
                      [](auto& c) { c.mutable_linux()->mutable_resources()->set_memory_limit_in_bytes(64 << 20); });
  if (!hasController(container, "memory")) GTEST_SKIP() << "the memory controller is not delegated here";
  container.up();
  EXPECT_NE(container.exec("exec dd if=/dev/zero of=/dev/null bs=200M count=1").code, 0);
  EXPECT_EQ(container.text("echo goes on"), "goes on");
  container.stop(20);
  EXPECT_EQ(container.status().reason(), "Completed");
}

// ---- Caps

TEST(ExecSync, OutputIsCappedAndTheCommandGoesOn) {
  PROMISE("1.1.17 caps");
  Pod pod;
  Container container(pod);
  auto answer = call(script(container, "head -c 20000000 /dev/zero; echo done > /done; echo after >&2; exit 3"));
  EXPECT_LE(answer.ByteSizeLong(), kLargestMessage);
  EXPECT_GE(answer.stdout().size(), kLargestMessage - kMiB / 4);
  EXPECT_EQ(answer.stdout().find_first_not_of('\0'), std::string::npos);
  EXPECT_EQ(answer.stderr(), "after\n");
  EXPECT_EQ(answer.exit_code(), 3);
  EXPECT_EQ(container.text("cat /done"), "done");
}

TEST(ExecSync, BothStreamsAreCapped) {
  PROMISE("1.1.17 caps");
  Pod pod;
  Container container(pod);
  auto answer = call(script(container, "head -c 18000000 /dev/zero; head -c 18000000 /dev/zero >&2"));
  EXPECT_LE(answer.ByteSizeLong(), kLargestMessage) << "clients of Kubernetes would not take it";
  EXPECT_GE(answer.stdout().size(), 7 * kMiB);
  EXPECT_GE(answer.stderr().size(), 7 * kMiB);
  EXPECT_EQ(answer.exit_code(), 0);
}

TEST(ExecSync, UncappedOutputIsWhole) {
  PROMISE("1.1.17 caps");
  Pod pod;
  Container container(pod);
  auto got = container.exec("seq 1 300000");
  std::string wanted;
  for (int line = 1; line <= 300'000; ++line) wanted += std::to_string(line) + "\n";
  EXPECT_TRUE(got.out == wanted) << got.out.size() << " bytes instead of " << wanted.size();
}

// ---- Time-outs

TEST(ExecSync, TimeoutEndsTheWholeTree) {
  PROMISE("1.1.17 timeout");
  for (auto pid : {v1::CONTAINER, v1::POD, v1::NODE}) {
    Pod pod([&](auto& c) { namespacesOf(c)->set_pid(pid); });
    Container container(pod);
    container.up();
    auto marker = uniqueName("marker");
    auto child = "sh -c \"trap '' TERM; sleep 3600; echo " + marker + "\"";
    auto got = timed(script(container, "trap '' TERM; setsid " + child + " & " + child + "; echo " + marker, 1));
    EXPECT_TRUE(timedOut(got.answer)) << got.answer.status.error_code();
    EXPECT_GE(got.took, milliseconds(950));
    EXPECT_LE(got.took, patience(milliseconds(3500)));
    waitUntil([&] { return processesWith(marker).empty(); },
              "the end of what timed out, PID mode " + std::to_string(pid), seconds(2));
    EXPECT_EQ(container.state(), v1::CONTAINER_RUNNING);
    EXPECT_EQ(container.text("echo goes on"), "goes on");
  }
}

TEST(ExecSync, TimeoutThatIsNotReachedIsNone) {
  PROMISE("1.1.17 timeout");
  Pod pod;
  Container container(pod);
  auto got = timed(script(container, "sleep 0.5; echo in time", 30));
  EXPECT_EQ(got.answer.value.stdout(), "in time\n");
  EXPECT_EQ(got.answer.value.exit_code(), 0);
  EXPECT_LE(got.took, patience(seconds(5)));
}

TEST(ExecSync, LargestTimeoutIsNone) {
  PROMISE("1.1.17 timeout");
  Pod pod;
  Container container(pod);
  auto largest = script(container, "echo in time");
  largest.set_timeout(std::numeric_limits<std::int64_t>::max());
  EXPECT_EQ(call(largest).stdout(), "in time\n");
}

TEST(ExecSync, TimeoutOfZeroIsNone) {
  PROMISE("1.1.17 timeout");
  Pod pod;
  Container container(pod);
  EXPECT_EQ(container.exec("sleep 2; echo late", 0).out, "late\n");
}

TEST(ExecSync, EndOfTheContainerEndsIt) {
  PROMISE("1.1.17 end");
  Pod pod;
  Container container(pod);
  container.up();
  auto running = std::async(std::launch::async, [&] { return timed(script(container, "echo in; sleep 3600")); });
  std::this_thread::sleep_for(milliseconds(500));
  container.stop(0);
  auto got = running.get();
  EXPECT_TRUE(!got.answer.status.ok() || got.answer.value.exit_code() != 0);
  EXPECT_LE(got.took, patience(seconds(5)));
}

// ---- A child that holds the pipe

TEST(ExecSync, ReturnsThoughAChildHoldsThePipe) {
  PROMISE("1.1.17 drain");
  for (auto pid : {v1::CONTAINER, v1::POD, v1::NODE}) {
    Pod pod([&](auto& c) { namespacesOf(c)->set_pid(pid); });
    Container container(pod);
    auto got = timed(script(container, "sleep 3600 & echo early; exit 5"));
    EXPECT_EQ(got.answer.value.stdout(), "early\n");
    EXPECT_EQ(got.answer.value.exit_code(), 5);
    EXPECT_LE(got.took, patience(milliseconds(3000))) << "PID mode " << pid;
  }
}

TEST(ExecSync, DrainsWhatComesSoonAfterTheEnd) {
  PROMISE("1.1.17 drain");
  Pod pod;
  Container container(pod);
  auto got = timed(script(container, "(sleep 1; echo late) & echo early"));
  EXPECT_EQ(got.answer.value.stdout(), "early\nlate\n");
  EXPECT_LE(got.took, patience(milliseconds(2500)));
}

TEST(ExecSync, WithoutSuchAChildItReturnsAtOnce) {
  PROMISE("1.1.17 drain");
  Pod pod;
  Container container(pod);
  container.exec("true");
  EXPECT_LE(timed(script(container, "sleep 3600 > /dev/null 2>&1 & echo early")).took, patience(milliseconds(1000)));
}

// ---- Many

TEST(ExecSync, HundredAtOnce) {
  PROMISE("1.1.17 many");
  Pod pod;
  Container container(pod);
  std::atomic<int> next = 0;
  auto results = atOnce(100, [&] {
    int number = next++;
    auto text = "echo out" + std::to_string(number) + "; echo err" + std::to_string(number) + " >&2; exit " +
                std::to_string(number);
    auto answer = attempt(script(container, text), seconds(120));
    return answer.status.ok() && answer.value.stdout() == "out" + std::to_string(number) + "\n" &&
           answer.value.stderr() == "err" + std::to_string(number) + "\n" && answer.value.exit_code() == number;
  });
  EXPECT_EQ(std::count(results.begin(), results.end(), true), 100);
  EXPECT_EQ(container.text("echo fine"), "fine");
}

}  // namespace userpod::conformance

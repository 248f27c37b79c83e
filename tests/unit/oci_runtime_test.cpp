// conmon, the OCI runtime and execs inside a node that runs.
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <csignal>
#include <filesystem>
#include <future>
#include <iostream>
#include <thread>

#include "daemon/sys/child.hpp"
#include "tests/unit/oci_bed.hpp"

namespace userpod::oci {
namespace {

double milliseconds(Clock::duration time) {
  return std::chrono::duration<double, std::milli>(time).count();
}

double median(std::vector<double> times) {
  std::sort(times.begin(), times.end());
  return times[times.size() / 2];
}

TEST(OciRuntime, RunsAContainerToItsEnd) {
  if (!inNode()) return;
  Bed bed;
  std::string log;
  auto created = bed.create("a", shell("echo to-out; echo to-err >&2; exit 7"), &log);
  ASSERT_TRUE(created) << created.error().text();
  EXPECT_GT(created->pid, 1);
  EXPECT_GT(created->monitorPid, 1);
  EXPECT_NE(created->pid, created->monitorPid);
  auto started = bed.runtime().start(bed.id("a"), "");
  ASSERT_TRUE(started) << started.error().text();
  auto exit = bed.waitExit("a");
  EXPECT_EQ(exit.code, 7);
  EXPECT_NEAR(static_cast<double>(exit.finishedAt), static_cast<double>(nowNanos()), 5e9);
  auto text = readFile(log);
  ASSERT_TRUE(text);
  EXPECT_NE(text->find("stdout F to-out\n"), std::string::npos) << *text;
  EXPECT_NE(text->find("stderr F to-err\n"), std::string::npos) << *text;
  auto removed = bed.runtime().remove(bed.id("a"), "");
  EXPECT_TRUE(removed) << removed.error().text();
  EXPECT_FALSE(pathExists(bed.node().cgroupRoot + "/mon/" + bed.id("a")));
  EXPECT_FALSE(pathExists(bed.node().cgroupRoot + bed.cgroup(bed.id("a"))));
  EXPECT_TRUE(bed.runtime().remove(bed.id("a"), "")) << "a second time";
  EXPECT_TRUE(bed.runtime().remove("never-there", ""));
}

TEST(OciRuntime, MonitorIsOfTheNodeAndOutsideThePod) {
  if (!inNode()) return;
  Bed bed;
  auto created = bed.create("m", shell("sleep 100"));
  ASSERT_TRUE(created) << created.error().text();
  auto stat = readFile("/proc/" + std::to_string(created->monitorPid) + "/stat", 4096);
  ASSERT_TRUE(stat);
  EXPECT_EQ(split(std::string_view(*stat).substr(stat->rfind(')') + 2), ' ')[1], "1") << "parent of conmon";
  auto monitors = readFile(bed.node().cgroupRoot + "/mon/" + bed.id("m") + "/cgroup.procs");
  ASSERT_TRUE(monitors);
  EXPECT_EQ(trim(*monitors), std::to_string(created->monitorPid));
  auto members = readFile(bed.node().cgroupRoot + bed.cgroup(bed.id("m")) + "/cgroup.procs");
  ASSERT_TRUE(members);
  EXPECT_EQ(trim(*members), std::to_string(created->pid));
}

TEST(OciRuntime, FailuresCarryTheRuntimesWords) {
  if (!inNode()) return;
  Bed bed;
  auto created = bed.create("f", [] {
    auto config = shell("");
    config.command = {"/no/such/program"};
    return config;
  }());
  ASSERT_FALSE(created);
  EXPECT_EQ(created.error().code(), Code::RuntimeFailed);
  EXPECT_TRUE(created.error().text().starts_with("crun create: ")) << created.error().text();
  EXPECT_NE(created.error().text().find("/no/such/program"), std::string::npos) << created.error().text();
  std::cout << created.error().text() << "\n";
  EXPECT_FALSE(pathExists(bed.node().cgroupRoot + "/mon/" + bed.id("f")));
  auto started = bed.runtime().start("never-there", "");
  ASSERT_FALSE(started);
  std::cout << started.error().text() << "\n";
  EXPECT_FALSE(bed.runtime().hasHandler("other"));
  EXPECT_TRUE(bed.runtime().hasHandler(""));
  EXPECT_EQ(bed.runtime().version().first, "crun");
}

TEST(OciRuntime, Exec) {
  if (!inNode()) return;
  Bed bed;
  auto config = shell("sleep 100");
  config.environment = {{"COLOUR", "blue"}};
  config.security.runAsUser = 12;
  config.security.runAsGroup = 34;
  config.workingDirectory = "/tmp";
  ASSERT_TRUE(bed.create("e", config));
  ASSERT_TRUE(bed.runtime().start(bed.id("e"), ""));
  auto result = bed.exec("e", {"sh", "-c", "id -u; id -g; echo $COLOUR; cat /proc/self/status | head -60 >&2; exit 3"});
  ASSERT_TRUE(result) << result.error().text();
  EXPECT_EQ(result->exitCode, 3);
  EXPECT_EQ(result->out, "12\n34\nblue\n");
  EXPECT_NE(result->err.find("NoNewPrivs:\t1"), std::string::npos) << result->err;
  EXPECT_NE(result->err.find("Seccomp:\t2"), std::string::npos) << result->err;
  EXPECT_NE(result->err.find("CapEff:\t0000000000000000"), std::string::npos) << result->err;
  auto missing = bed.exec("e", {"no-such-program"});
  ASSERT_FALSE(missing);
  EXPECT_EQ(missing.error().code(), Code::RuntimeFailed);
  std::cout << missing.error().text() << "\n";
  auto big = bed.exec("e", {"sh", "-c", "yes | head -c 20000000; echo end >&2"});
  ASSERT_TRUE(big) << big.error().text();
  EXPECT_EQ(big->out.size(), 16U << 20);
  EXPECT_EQ(big->err, "end\n");
  EXPECT_FALSE(bed.exec("e", {}));
}

TEST(OciRuntime, ExecEndsWithItsTree) {
  if (!inNode()) return;
  Bed bed;
  ASSERT_TRUE(bed.create("t", shell("sleep 100")));
  ASSERT_TRUE(bed.runtime().start(bed.id("t"), ""));
  auto begin = Clock::now();
  auto late = bed.exec("t", {"sh", "-c", "setsid sleep 77 & (sleep 78 &) ; sleep 79"}, 300ms);
  ASSERT_FALSE(late);
  EXPECT_EQ(late.error().code(), Code::Timeout) << late.error().text();
  EXPECT_LT(milliseconds(Clock::now() - begin), 1000);
  std::this_thread::sleep_for(50ms);
  auto left = bed.exec("t", {"sh", "-c", "cat /proc/[0-9]*/cmdline"});
  ASSERT_TRUE(left) << left.error().text();
  for (const char* time : {"77", "78", "79"})
    EXPECT_EQ(left->out.find(std::string("sleep") + '\0' + time), std::string::npos);
  EXPECT_NE(left->out.find(std::string("sleep") + '\0' + "100"), std::string::npos);
  // A child that keeps the pipe: two seconds of drain, its output up to then.
  begin = Clock::now();
  auto held = bed.exec("t", {"sh", "-c", "echo one; (sleep 0.5; echo two; sleep 60) &"});
  ASSERT_TRUE(held) << held.error().text();
  EXPECT_EQ(held->exitCode, 0);
  EXPECT_EQ(held->out, "one\ntwo\n");
  double took = milliseconds(Clock::now() - begin);
  EXPECT_GT(took, 1900);
  EXPECT_LT(took, 2500);
}

TEST(OciRuntime, HundredExecsAtOnce) {
  if (!inNode()) return;
  Bed bed;
  ASSERT_TRUE(bed.create("h", shell("sleep 100")));
  ASSERT_TRUE(bed.runtime().start(bed.id("h"), ""));
  std::vector<std::promise<Result<ExecResult>>> promises(100);
  for (auto& promise : promises)
    bed.runtime().exec({bed.id("h"), "", bed.paths().containerDirectory(bed.id("h")), {"echo", "x"}, 30s},
                       [&](Result<ExecResult> result) { promise.set_value(std::move(result)); });
  for (auto& promise : promises) {
    auto result = promise.get_future().get();
    ASSERT_TRUE(result) << result.error().text();
    EXPECT_EQ(result->out, "x\n");
  }
  int left = 0;
  for (const auto& entry : std::filesystem::directory_iterator(bed.node().cgroupRoot + bed.cgroup(bed.id("h"))))
    left += entry.is_directory() ? 1 : 0;
  EXPECT_EQ(left, 0) << "cgroups of execs";
}

TEST(OciRuntime, TerminalAndPrivileged) {
  if (!inNode()) return;
  Bed bed;
  std::string log;
  auto config = shell("cat /proc/self/mountinfo; env; exit 0");
  config.tty = true;
  config.security.privileged = true;
  auto created = bed.create("p", config, &log);
  ASSERT_TRUE(created) << created.error().text();
  ASSERT_TRUE(bed.runtime().start(bed.id("p"), ""));
  EXPECT_EQ(bed.waitExit("p").code, 0);
  auto text = readFile(log);
  ASSERT_TRUE(text);
  EXPECT_NE(text->find("TERM=xterm"), std::string::npos) << *text;
  EXPECT_NE(text->find(" /sys/fs/cgroup rw"), std::string::npos) << *text;
}

void measure(const char* title, bool seccomp) {
  Bed bed;
  std::vector<double> creates, starts, stops, deletes, execs;
  for (int i = 0; i < 30; ++i) {
    std::string name = "n" + std::to_string(i);
    auto config = shell("trap 'exit 0' TERM; sleep 100 & wait");
    if (!seccomp) config.security.seccomp.reset();
    auto t0 = Clock::now();
    auto created = bed.create(name, config);
    ASSERT_TRUE(created) << created.error().text();
    auto t1 = Clock::now();
    ASSERT_TRUE(bed.runtime().start(bed.id(name), ""));
    auto t2 = Clock::now();
    for (int k = 0; k < 2; ++k) {
      auto e0 = Clock::now();
      ASSERT_TRUE(bed.exec(name, {"/bin/true"}));
      execs.push_back(milliseconds(Clock::now() - e0));
    }
    std::this_thread::sleep_for(10ms);
    auto t3 = Clock::now();
    ::kill(created->pid, SIGTERM);
    EXPECT_EQ(bed.waitExit(name).code, 0);
    auto t4 = Clock::now();
    ASSERT_TRUE(bed.runtime().remove(bed.id(name), ""));
    deletes.push_back(milliseconds(Clock::now() - t4));
    creates.push_back(milliseconds(t1 - t0));
    starts.push_back(milliseconds(t2 - t1));
    stops.push_back(milliseconds(t4 - t3));
  }
  std::cout << title << ", p50 ms: spec+create " << median(creates) << ", start " << median(starts) << ", exec "
            << median(execs) << ", signal to exit file " << median(stops) << ", delete " << median(deletes) << "\n";
}

TEST(OciRuntime, MountsInsideAContainer) {
  if (!inNode()) return;
  Bed bed;
  std::string log;
  auto config =
      shell("cat /proc/self/mountinfo; touch /ro/x || echo read-only; cat /etc/resolv.conf; test -d /proc/1 && id -u");
  config.mounts = {
      {"/ro", "/tmp", true}, {"/slave", "/usr", true, false, false, 1}, {"/data/deep", "/tmp/userpod-oci-test", false}};
  config.security.namespaces.pid = NamespaceMode::Node;
  config.security.maskedPaths = {"/proc/kcore"};
  config.security.readonlyPaths = {"/proc/sys"};
  auto created = bed.create("d", config, &log);
  ASSERT_TRUE(created) << created.error().text();
  auto pids = std::filesystem::read_symlink("/proc/" + std::to_string(created->pid) + "/ns/pid");
  EXPECT_EQ(pids, std::filesystem::read_symlink("/proc/1/ns/pid")) << "the node's";
  ASSERT_TRUE(bed.runtime().start(bed.id("d"), ""));
  EXPECT_EQ(bed.waitExit("d").code, 0);
  auto text = readFile(log);
  ASSERT_TRUE(text);
  EXPECT_NE(text->find("F read-only\n"), std::string::npos) << *text;
  EXPECT_NE(text->find("nameserver 10.0.2.3"), std::string::npos) << *text;
  EXPECT_NE(text->find(" /proc/sys ro"), std::string::npos) << *text;
  (void)removeTree("/tmp/userpod-oci-test");
}

TEST(OciRuntime, Times) {
  if (!inNode()) return;
  measure("default seccomp profile", true);
  measure("no seccomp profile", false);
}

}  // namespace
}  // namespace userpod::oci

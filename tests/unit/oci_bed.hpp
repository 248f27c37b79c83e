// Containers in a node that runs, for tests of what is done to them. Each test starts itself again after joining the
// node, as the daemon does, and is skipped without one: systemctl --user start userpod-node.service.
#pragma once

#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <filesystem>
#include <future>
#include <iostream>
#include <thread>

#include "daemon/oci/oci.hpp"
#include "daemon/sys/mount.hpp"
#include "daemon/sys/util.hpp"
#include "userns/node.hpp"

namespace userpod::oci {

using namespace std::chrono_literals;
using Clock = std::chrono::steady_clock;

inline constexpr const char* kInside = "USERPOD_TEST_INSIDE_NODE";

// Joins the node in a child and runs the calling test again there. True in the process that shall do the test.
inline bool inNode() {
  if (::getenv(kInside) != nullptr) return true;
  const auto* test = ::testing::UnitTest::GetInstance()->current_test_info();
  auto skip = [](const std::string& why) {
    [&] { GTEST_SKIP() << why; }();
    return false;
  };
  if (!std::filesystem::exists("/bin/busybox"))
    return skip("no /bin/busybox for a root file system: apt install busybox-static");
  auto paths = userPaths();
  if (!paths) return skip(paths.error().text());
  auto node = Node::find(*paths);
  if (!node) return skip(node.error().text());
  std::string filter = std::string("--gtest_filter=") + test->test_suite_name() + "." + test->name();
  pid_t child = ::fork();
  if (child == 0) {
    if (auto joined = node->join(false); !joined) {
      std::cerr << joined.error().text() << "\n";
      ::_exit(1);
    }
    pid_t inner = ::fork();  // in the node's PID namespace
    if (inner == 0) {
      ::setenv(kInside, "1", 1);
      ::execl("/proc/self/exe", "unit-oci", filter.c_str(), nullptr);
      ::_exit(127);
    }
    int status = 0;
    ::waitpid(inner, &status, 0);
    ::_exit(WIFEXITED(status) ? WEXITSTATUS(status) : 1);
  }
  int status = 0;
  ::waitpid(child, &status, 0);
  EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0) << "failed inside the node";
  return false;
}

// A pod directory, a busybox root file system and a runtime, with directories of their own.
class Bed {
 public:
  // Containers are made with this runtime handler; with crun when it is empty.
  explicit Bed(std::string handler = "") : handler_(std::move(handler)) {
    if (!handler_.empty()) settings_.runtimes[handler_];
    auto found = userPaths();
    EXPECT_TRUE(found);
    paths_ = *found;
    auto opened = NodeInside::open(paths_);
    EXPECT_TRUE(opened) << opened.error().text();
    node_ = std::move(*opened);
    tag_ = "octest" + randomHex(4);
    // Everything of the test below directories of its own, but for the node's: the runtime is bound there.
    paths_.runtime += "/" + tag_;
    paths_.node += "/" + tag_;
    pod_.id = tag_;
    for (const auto& directory : {podDirectory() + "/shm", rootfs() + "/bin", rootfs() + "/etc", rootfs() + "/tmp"})
      EXPECT_TRUE(makeDirectories(directory));
    EXPECT_TRUE(writeFile(podDirectory() + "/resolv.conf", "nameserver 10.0.2.3\n"));
    std::filesystem::copy_file("/bin/busybox", rootfs() + "/bin/busybox");
    for (const char* name :
         {"sh",     "sleep", "true", "cat", "echo",  "id", "yes",      "head", "mount", "touch", "env",
          "setsid", "false", "stty", "tty", "nohup", "ls", "readlink", "wc",   "stat",  "ps"})
      std::filesystem::create_symlink("busybox", rootfs() + "/bin/" + name);
    beginRuntime();
  }
  ~Bed() {
    for (const auto& id : containers_) (void)runtime_->remove(id, handler_);
    runtime_.reset();
    (void)node_.removeCgroup("/pods/" + tag_);
    for (const auto& program : {std::string("crun"), handler_})
      if (!program.empty()) (void)unmountDetached(paths_.node + "/bin/" + program);
    (void)removeTree(paths_.runtime);
    (void)removeTree(paths_.node);
  }

  std::string podDirectory() const { return paths_.podDirectory(pod_.id); }
  std::string rootfs() const { return paths_.runtime + "/rootfs"; }
  std::string cgroup(const std::string& id) const { return "/pods/" + tag_ + "/" + id; }
  Runtime& runtime() { return *runtime_; }
  const NodeInside& node() const { return node_; }
  const Paths& paths() const { return paths_; }
  PodRecord& pod() { return pod_; }

  Result<CreatedProcess> create(const std::string& name, ContainerConfig config, std::string* logFile = nullptr) {
    ContainerRecord record;
    record.id = tag_ + name;
    record.config = std::move(config);
    record.cgroup = cgroup(record.id);
    record.imageName = "busybox";
    ImageRecord image;
    std::string bundle = paths_.containerDirectory(record.id);
    USERPOD_CHECK(makeDirectories(bundle));
    SpecInput input{pod_,
                    record,
                    image,
                    rootfs(),
                    {"/proc/1/ns/net", "/proc/1/ns/ipc", "/proc/1/ns/uts"},
                    podDirectory(),
                    "pod",
                    paths_.runtime,
                    node_.controllers,
                    {}};
    USERPOD_TRY(spec, buildSpec(input));
    USERPOD_CHECK(writeFile(bundle + "/config.json", spec.json));
    std::string log = bundle + "/output.log";
    if (logFile != nullptr) *logFile = log;
    containers_.push_back(record.id);
    return runtime_->create(
        {record.id, handler_, bundle, log, record.config.tty, record.config.stdinOpen, record.config.stdinOnce});
  }
  Status start(const std::string& name) { return runtime_->start(id(name), handler_); }
  std::string id(const std::string& name) const { return tag_ + name; }
  std::string bundle(const std::string& name) const { return paths_.containerDirectory(id(name)); }
  const std::string& handler() const { return handler_; }
  // While it is destroyed, what is under way is answered.
  void endRuntime() { runtime_.reset(); }
  void beginRuntime() {
    auto runtime = Runtime::open(paths_, settings_, node_);
    EXPECT_TRUE(runtime) << runtime.error().text();
    runtime_ = std::move(*runtime);
  }
  Result<ExecResult> exec(const std::string& name, std::vector<std::string> command,
                          std::chrono::milliseconds timeout = 0ms) {
    std::promise<Result<ExecResult>> promise;
    auto future = promise.get_future();
    runtime_->exec({id(name), handler_, paths_.containerDirectory(id(name)), std::move(command), timeout},
                   [&](Result<ExecResult> result) { promise.set_value(std::move(result)); });
    return future.get();
  }
  ExitRecord waitExit(const std::string& name) {
    auto end = Clock::now() + 10s;
    while (Clock::now() < end) {
      auto exit = readExitFile(paths_, id(name));
      if (exit && *exit) return **exit;
      std::this_thread::sleep_for(200us);
    }
    ADD_FAILURE() << "no exit file of " << name;
    return {-1, 0};
  }

 private:
  const std::string handler_;
  Paths paths_;
  Settings settings_;
  NodeInside node_;
  PodRecord pod_;
  std::string tag_;
  std::vector<std::string> containers_;
  std::unique_ptr<Runtime> runtime_;
};

inline ContainerConfig shell(const std::string& script) {
  ContainerConfig config;
  config.command = {"/bin/sh", "-c", script};
  config.security.seccomp = SecurityProfile{};
  config.security.noNewPrivs = true;
  return config;
}

}  // namespace userpod::oci

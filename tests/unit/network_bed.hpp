// A bed for pod networks on the real kernel, as an ordinary user. Each test starts itself again inside user, mount,
// PID, IPC, UTS and network namespaces of its own, made by unshare(1), and leaves with them whatever it made.
#pragma once

#include <arpa/inet.h>
#include <fcntl.h>
#include <fmt/core.h>
#include <gtest/gtest.h>
#include <linux/rtnetlink.h>
#include <linux/veth.h>
#include <net/if.h>
#include <netinet/in.h>
#include <poll.h>
#include <sched.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <cstring>
#include <filesystem>
#include <functional>
#include <iostream>
#include <map>
#include <mutex>
#include <set>
#include <thread>

#include "daemon/network/network.hpp"
#include "daemon/network/ports/client.hpp"
#include "daemon/sys/child.hpp"
#include "daemon/sys/fd.hpp"
#include "daemon/sys/mount.hpp"
#include "daemon/sys/netlink.hpp"
#include "daemon/sys/util.hpp"

namespace userpod::network {

using namespace std::chrono_literals;
using Clock = std::chrono::steady_clock;

// In the namespace of that file, in a thread made for it. A socket made there stays there.
inline void inNamespace(const std::string& path, int type, const std::function<void()>& function) {
  std::thread([&] {
    auto file = openFile(path, O_RDONLY);
    if (!file || ::setns(file->get(), type) < 0) {
      ADD_FAILURE() << "cannot join " << path;
      return;
    }
    function();
  }).join();
}

inline UniqueFd tcpSocket(const std::string& network) {
  UniqueFd fd;
  inNamespace(network, CLONE_NEWNET,
              [&] { fd.reset(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0)); });
  return fd;
}

inline sockaddr_in at(const std::string& address, int port) {
  sockaddr_in name{};
  name.sin_family = AF_INET;
  name.sin_port = htons(static_cast<std::uint16_t>(port));
  ::inet_pton(AF_INET, address.c_str(), &name.sin_addr);
  return name;
}

inline UniqueFd listenIn(const std::string& network, int port) {
  auto fd = tcpSocket(network);
  auto name = at("0.0.0.0", port);
  EXPECT_EQ(::bind(fd.get(), reinterpret_cast<sockaddr*>(&name), sizeof(name)), 0) << errno;
  EXPECT_EQ(::listen(fd.get(), 10), 0);
  return fd;
}

inline bool connects(const std::string& network, const std::string& address, int port, const std::string& source = "",
                     std::chrono::milliseconds time = 2s) {
  auto fd = tcpSocket(network);
  if (!source.empty()) {
    auto name = at(source, 0);
    if (::bind(fd.get(), reinterpret_cast<sockaddr*>(&name), sizeof(name)) < 0) return false;
  }
  auto name = at(address, port);
  if (::connect(fd.get(), reinterpret_cast<sockaddr*>(&name), sizeof(name)) == 0) return true;
  pollfd wait{fd.get(), POLLOUT, 0};
  if (errno != EINPROGRESS || ::poll(&wait, 1, static_cast<int>(time.count())) != 1) return false;
  int error = 0;
  socklen_t size = sizeof(error);
  ::getsockopt(fd.get(), SOL_SOCKET, SO_ERROR, &error, &size);
  return error == 0;
}

inline ino_t inode(const std::string& path) {
  struct stat info{};
  EXPECT_EQ(::stat(path.c_str(), &info), 0) << path;
  return info.st_ino;
}

// Of this thread's network namespace.
inline void setLoopbackUp() {
  UniqueFd any(::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  ifreq request{};
  std::strcpy(request.ifr_name, "lo");
  request.ifr_flags = IFF_UP;
  EXPECT_EQ(::ioctl(any.get(), SIOCSIFFLAGS, &request), 0);
}

// A node as the holder makes it, as far as pod networks need one. The test's main thread then leaves the node's network
// namespace, as the daemon is not in it either.
class InNode : public ::testing::Test {
 protected:
  static bool inside() { return ::getenv("USERPOD_TEST_NODE") != nullptr; }

  // Outside: runs this test inside, and takes over its result.
  static void runInside() {
    std::vector<std::string> command = {
        "/usr/bin/unshare", "--user",       "--map-root-user", "--net",   "--mount", "--pid", "--ipc", "--uts",
        "--fork",           "--mount-proc", "--kill-child",    "/bin/sh", "-c"};
    auto probe = command;
    probe.emplace_back("true");
    auto able = run({.argv = probe}, 10s);
    if (!able || able->status.code != 0)
      GTEST_SKIP() << "no user namespace here: " << (able ? able->err : able.error().text());
    const auto* test = ::testing::UnitTest::GetInstance()->current_test_info();
    // A shell stays the node's process 1, as the holder's is not the daemon.
    command.insert(command.end(), {"\"$0\" \"$1\"; exit $?", std::filesystem::read_symlink("/proc/self/exe"),
                                   std::string("--gtest_filter=") + test->test_suite_name() + "." + test->name()});
    auto result = run({.argv = command, .environment = {"USERPOD_TEST_NODE=1", "PATH=/usr/sbin:/usr/bin:/sbin:/bin"}},
                      100s, 1 << 20);
    ASSERT_TRUE(result) << result.error().text();
    EXPECT_EQ(result->status.code, 0) << result->out << result->err;
    const std::string& out = result->out;
    constexpr std::string_view kTime = "[   TIME   ]";
    for (auto found = out.find(kTime); found != std::string::npos; found = out.find(kTime, found + 1))
      std::cout << out.substr(found, out.find('\n', found) - found) << std::endl;
    constexpr std::string_view kSkipped = ": Skipped\n";
    if (auto found = out.find(kSkipped); found != std::string::npos) {
      found += kSkipped.size();
      GTEST_SKIP() << out.substr(found, out.find('\n', found) - found);
    }
  }

  void SetUp() override {
    if (!inside()) return;
    ASSERT_TRUE(mountFilesystem("tmpfs", "tmpfs", "/run", 0));
    paths_ = {.runtime = "/run/user/userpod", .data = "/run/data", .config = "/run/config", .node = "/run/userpod"};
    node_.networkNamespace = *openFile("/proc/self/ns/net", O_RDONLY);
    node_.ipcNamespace = *openFile("/proc/self/ns/ipc", O_RDONLY);
    setLoopbackUp();
    ASSERT_EQ(::unshare(CLONE_NEWNET), 0);
    restart();
    mounts_ = mounts();
  }

  // As the daemon does, with what its store says of pods that live.
  void restart(std::map<std::string, std::int64_t> freed = {}) {
    network_.reset();
    Earlier earlier{{}, std::move(freed)};
    for (const auto& [id, pod] : pods_) earlier.living.push_back(pod);
    node_.cgroupRoot.clear();  // userpod-ports needs none
    auto ports = openPorts(USERPOD_PORTS, paths_, settings_, node_);
    ASSERT_TRUE(ports) << ports.error().text();
    auto opened = Network::open(paths_, settings_, node_, earlier, std::move(*ports));
    ASSERT_TRUE(opened) << opened.error().text();
    network_ = std::move(*opened);
  }

  // Names of links come from ids, which are random: each pod of a name has another one.
  Result<PodNetwork> trySetUp(const std::string& name, PodConfig config = {}) {
    PodRecord pod;
    pod.id = fmt::format("{:013x}{}", ++lastId_, name);
    pod.config = std::move(config);
    USERPOD_TRY(addresses, network_->reserve(pod.id, pod.config));
    pod.addresses = addresses;
    auto made = network_->setUp(pod, "pod-" + name);
    std::lock_guard lock(mutex_);
    if (made) pods_[name] = pod;
    return made;
  }
  PodNetwork setUp(const std::string& name, PodConfig config = {}) {
    auto made = trySetUp(name, std::move(config));
    EXPECT_TRUE(made) << made.error().text();
    return made ? *made : PodNetwork{};
  }
  void tearDown(const std::string& name) {
    auto done = network_->tearDown(pods_.at(name));
    EXPECT_TRUE(done) << done.error().text();
  }

  // Those below /run, where all of ours are: the options of the machine's others may change meanwhile.
  static std::string mounts() {
    std::string own;
    for (const auto& line : split(*readFile("/proc/self/mountinfo"), '\n'))
      if (line.find(" /run/") != std::string::npos) own += line + "\n";
    return own;
  }
  std::string pinOf(const std::string& name) const { return paths_.pin(pods_.at(name).id); }

  // The kernel reaps links in the background: the names in the node once they are `count`, or after 5 seconds.
  static std::set<std::string> links(std::size_t count) {
    std::set<std::string> names;
    for (auto until = Clock::now() + 5s;;) {
      names.clear();
      inNamespace(kNode, CLONE_NEWNET, [&] {
        auto* list = ::if_nameindex();
        for (auto* entry = list; entry != nullptr && entry->if_index != 0; ++entry) names.insert(entry->if_name);
        ::if_freenameindex(list);
      });
      if (names.size() == count || Clock::now() > until) return names;
      std::this_thread::sleep_for(5ms);
    }
  }

  static constexpr const char* kNode = "/proc/1/ns/net";
  Paths paths_;
  Settings settings_;
  NodeInside node_;
  std::unique_ptr<Network> network_;
  std::string mounts_;
  std::mutex mutex_;
  std::map<std::string, PodRecord> pods_;  // by name, those that were set up; guarded by mutex_
  std::atomic<std::uint64_t> lastId_ = 0;
};

}  // namespace userpod::network

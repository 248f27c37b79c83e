// What the process that talks to registries can still do, tried by one that wants more.
#include "daemon/images/transfer/confine_transfer.hpp"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sched.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <unistd.h>

#include <functional>
#include <thread>

#include "daemon/sys/fd.hpp"
#include "daemon/sys/mount.hpp"
#include "tests/unit/confined.hpp"
#include "tests/unit/namespace.hpp"

namespace userpod::images {
namespace {

class ConfineTransfer : public ::testing::Test {
 protected:
  void SetUp() override {
    static const std::string refused = testing::enterUserNamespace();
    if (!refused.empty()) GTEST_SKIP() << refused;
    directory_ = testing::makeTestDirectory();
    ASSERT_FALSE(directory_.empty());
    runtime_ = directory_ + "/runtime";
    data_ = directory_ + "/da ta";
    ASSERT_TRUE(makeDirectories(runtime_, 0700));
    ASSERT_TRUE(makeDirectories(data_ + "/containers/c/merged", 0700));
  }
  void TearDown() override {
    if (directory_.empty()) return;
    EXPECT_TRUE(unmountDetached(data_ + "/containers/c/merged"));
    EXPECT_TRUE(removeTree(directory_));
  }
  bool inside(const std::function<bool()>& attempt) {
    return testing::holdsInside([this] { return confineTransfer(runtime_, data_); }, attempt);
  }
  std::string directory_, runtime_, data_;
};

bool failsWith(int expected, long result) {
  return result < 0 && errno == expected;
}

TEST_F(ConfineTransfer, DoesItsWork) {
  int ends[2];
  ASSERT_EQ(::pipe2(ends, O_CLOEXEC), 0);
  EXPECT_TRUE(inside([&] {
    bool read = ::open("/etc/passwd", O_RDONLY | O_CLOEXEC) >= 0 && ::open("/dev/null", O_RDONLY | O_CLOEXEC) >= 0;
    bool connects = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0) >= 0 && ::socket(AF_UNIX, SOCK_STREAM, 0) >= 0;
    bool other = false;
    std::thread([&] { other = true; }).join();
    return read && connects && other && ::write(ends[1], "x", 1) == 1 && ::raise(SIGCHLD) == 0;
  }));
  ::close(ends[0]);
  ::close(ends[1]);
}

TEST_F(ConfineTransfer, WritesNoFile) {
  EXPECT_TRUE(inside([&] { return failsWith(EROFS, ::open((data_ + "/x").c_str(), O_WRONLY | O_CREAT, 0600)); }));
  EXPECT_TRUE(inside([&] { return failsWith(EROFS, ::unlink((data_ + "/containers").c_str())); }));
  EXPECT_TRUE(inside([&] { return failsWith(EROFS, ::mkdir("/tmp/x", 0700)); }));
  EXPECT_TRUE(inside([&] { return failsWith(EROFS, ::mkdir((runtime_ + "/x").c_str(), 0700)); }));
}

TEST_F(ConfineTransfer, StartsNothing) {
  char* none[] = {nullptr};
  EXPECT_TRUE(inside([&] { return failsWith(EPERM, ::execve("/bin/true", none, none)); }));
  EXPECT_TRUE(inside([] { return ::fork() < 0; }));
  EXPECT_TRUE(inside([] { return ::syscall(SYS_clone3, nullptr, 0) < 0; }));
}

TEST_F(ConfineTransfer, ReachesNoOtherProcess) {
  pid_t parent = ::getpid();
  EXPECT_TRUE(inside([=] { return failsWith(EPERM, ::kill(parent, 0)); }));
  EXPECT_TRUE(inside([=] { return failsWith(EPERM, ::syscall(SYS_tgkill, parent, parent, 0)); }));
  EXPECT_TRUE(inside([=] { return failsWith(EPERM, ::syscall(SYS_pidfd_open, parent, 0)); }));
  EXPECT_TRUE(inside([=] { return failsWith(EPERM, ::ptrace(PTRACE_ATTACH, parent, nullptr, nullptr)); }));
  EXPECT_TRUE(inside([=] {
    rlimit limit{};
    return ::prlimit(0, RLIMIT_CPU, nullptr, &limit) == 0 &&
           failsWith(EPERM, ::prlimit(parent, RLIMIT_CPU, nullptr, &limit));
  }));
  EXPECT_TRUE(inside([=] {
    int socket = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    pid_t owner = parent;
    return failsWith(EPERM, ::fcntl(socket, F_SETOWN, parent)) &&
           failsWith(EPERM, ::fcntl(socket, F_SETSIG, SIGKILL)) &&
           failsWith(EPERM, ::ioctl(socket, FIOSETOWN, &owner)) &&
           failsWith(EPERM, ::ioctl(socket, SIOCSPGRP, &owner)) && ::fcntl(socket, F_SETFL, O_NONBLOCK) == 0;
  }));
  EXPECT_TRUE(inside([=] { return failsWith(EPERM, ::unshare(CLONE_NEWUSER)); }));
  EXPECT_TRUE(inside([=] { return failsWith(EPERM, ::mount("none", "/mnt", "tmpfs", 0, nullptr)); }));
}

TEST_F(ConfineTransfer, ReachesNoSocketOfTheSession) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  (runtime_ + "/bus").copy(address.sun_path, sizeof address.sun_path - 1);
  UniqueFd listener(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  ASSERT_EQ(::bind(listener.get(), reinterpret_cast<sockaddr*>(&address), sizeof address), 0);
  ASSERT_EQ(::listen(listener.get(), 1), 0);
  auto connects = [&] {
    UniqueFd socket(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
    return ::connect(socket.get(), reinterpret_cast<sockaddr*>(&address), sizeof address);
  };
  EXPECT_EQ(connects(), 0);
  EXPECT_TRUE(inside([&] { return failsWith(ENOENT, connects()); }));
}

TEST_F(ConfineTransfer, ReachesNoAbstractSocket) {
  struct {
    std::uint64_t accessFs = 0, accessNet = 0, scoped = 1;
  } ruleset;
  UniqueFd known(static_cast<int>(::syscall(SYS_landlock_create_ruleset, &ruleset, sizeof ruleset, 0)));
  if (!known) GTEST_SKIP() << "this kernel has no scopes of Landlock (6.12)";
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  std::string name = "userpod-test-" + std::to_string(::getpid());
  name.copy(address.sun_path + 1, sizeof address.sun_path - 1);
  UniqueFd listener(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  ASSERT_EQ(::bind(listener.get(), reinterpret_cast<sockaddr*>(&address), sizeof address), 0);
  ASSERT_EQ(::listen(listener.get(), 1), 0);
  EXPECT_TRUE(inside([&] {
    UniqueFd socket(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
    return failsWith(EPERM, ::connect(socket.get(), reinterpret_cast<sockaddr*>(&address), sizeof address));
  }));
}

// What its owner unmounts is gone, whatever a stalled registry keeps the process waiting for.
TEST_F(ConfineTransfer, KeepsNoMountOfAContainer) {
  const std::string place = data_ + "/containers/c/merged";
  ASSERT_TRUE(mountFilesystem("tmpfs", "none", place, 0));
  ASSERT_TRUE(writeFile(place + "/file", ""));
  EXPECT_TRUE(inside([&] { return failsWith(ENOENT, ::access((place + "/file").c_str(), F_OK)); }));
  auto named = mountsBelow({data_});
  ASSERT_TRUE(named);
  ASSERT_EQ(named->size(), 1U);
  EXPECT_EQ(named->front().target, place);
  // By a link to the directory too.
  ASSERT_EQ(::symlink(data_.c_str(), (directory_ + "/link").c_str()), 0);
  data_ = directory_ + "/link";
  named = mountsBelow({data_, directory_ + "/missing"});
  ASSERT_TRUE(named);
  ASSERT_EQ(named->size(), 1U);
  EXPECT_EQ(named->front().target, data_ + "/containers/c/merged");
  EXPECT_TRUE(inside([&] { return failsWith(ENOENT, ::access((place + "/file").c_str(), F_OK)); }));
  data_ = directory_ + "/da ta";
}

}  // namespace
}  // namespace userpod::images

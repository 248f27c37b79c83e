// What the process that unpacks a layer can still do, tried by one that wants more.
#include "daemon/images/unpack/confine.hpp"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sched.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/ptrace.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <functional>
#include <thread>

#include "daemon/sys/fd.hpp"
#include "tests/unit/confined.hpp"
#include "tests/unit/namespace.hpp"

namespace userpod::images {
namespace {

class Confine : public ::testing::Test {
 protected:
  void SetUp() override {
    static const std::string refused = testing::enterUserNamespace();
    if (!refused.empty()) GTEST_SKIP() << refused;
    directory_ = testing::makeTestDirectory();
    ASSERT_FALSE(directory_.empty());
  }
  void TearDown() override {
    if (directory_.empty()) return;
    EXPECT_TRUE(removeTree(directory_));
  }
  // Confined to the directory, which the attempt is given.
  bool inside(const std::function<bool(int directory)>& attempt) {
    auto directory = openFile(directory_, O_RDONLY | O_DIRECTORY);
    EXPECT_TRUE(directory);
    return testing::holdsInside([&] { return confine(directory->get()); }, [&] { return attempt(directory->get()); });
  }
  std::string directory_;
};

bool refused(long result) {
  return result < 0 && (errno == EPERM || errno == ENOSYS);
}

TEST_F(Confine, DoesItsWork) {
  EXPECT_TRUE(inside([](int directory) {
    bool done = ::mkdirat(directory, "d", 0755) == 0 && ::symlinkat("x", directory, "d/l") == 0;
    int file = ::openat(directory, "d/f", O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
    done = done && file >= 0 && ::write(file, "x", 1) == 1 && ::fchmod(file, 04755) == 0;
    bool other = false;
    std::thread([&] { other = true; }).join();
    return done && other && ::unlinkat(directory, "d/l", 0) == 0;
  }));
  struct stat info{};
  ASSERT_EQ(::stat((directory_ + "/d/f").c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 07777, 04755U);
}

TEST_F(Confine, SeesNothingElse) {
  EXPECT_TRUE(inside([](int) { return ::open("/etc/passwd", O_RDONLY | O_CLOEXEC) < 0 && errno == ENOENT; }));
  EXPECT_TRUE(inside([](int directory) {
    return ::openat(directory, "../..", O_PATH | O_CLOEXEC) >= 0 &&
           ::openat(directory, "../../etc/passwd", O_RDONLY | O_CLOEXEC) < 0;
  }));
  EXPECT_TRUE(inside([](int directory) { return refused(::fchdir(directory)) && refused(::chroot("/")); }));
  EXPECT_TRUE(inside([](int) { return refused(::mount("none", "/", "tmpfs", 0, nullptr)); }));
}

TEST_F(Confine, RunsNoNewCode) {
  EXPECT_TRUE(inside([](int) {
    void* page = ::mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    return page != MAP_FAILED && refused(::mprotect(page, 4096, PROT_READ | PROT_EXEC)) &&
           ::mmap(nullptr, 4096, PROT_READ | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) == MAP_FAILED;
  }));
}

TEST_F(Confine, ReachesNobody) {
  EXPECT_TRUE(inside([](int) { return refused(::socket(AF_INET, SOCK_STREAM, 0)); }));
  EXPECT_TRUE(inside([](int) { return refused(::socket(AF_UNIX, SOCK_STREAM, 0)); }));
  EXPECT_TRUE(inside([](int) { return refused(::kill(::getppid(), 0)); }));
  EXPECT_TRUE(inside([](int) { return refused(::ptrace(PTRACE_ATTACH, ::getppid(), nullptr, nullptr)); }));
  pid_t parent = ::getpid();
  EXPECT_TRUE(inside([parent](int) { return refused(::syscall(SYS_tgkill, parent, parent, 0)); }));
  EXPECT_TRUE(inside([parent](int directory) { return refused(::fcntl(directory, F_SETOWN, parent)); }));
  EXPECT_TRUE(inside([](int) { return refused(::fork()); }));
  EXPECT_TRUE(inside([](int) { return refused(::unshare(CLONE_NEWUSER)); }));
  EXPECT_TRUE(inside([](int) {
    char* none[] = {nullptr};
    return refused(::execve("/bin/true", none, none));
  }));
}

}  // namespace
}  // namespace userpod::images

// A user namespace for tests of what runs inside the node: uid 0 and capabilities over its own mounts.
#pragma once

#include <fcntl.h>
#include <sched.h>
#include <sys/mount.h>
#include <unistd.h>

#include <fstream>
#include <string>

namespace userpod::testing {

// Whether the process is in a user namespace already whose maps somebody else wrote (a test bed, unshare --map-auto).
inline bool inUserNamespace() {
  std::ifstream map("/proc/self/uid_map");
  long inside = 0, outside = 0, count = 0;
  map >> inside >> outside >> count;
  return ::getuid() == 0 && count != 4294967295;
}

// Makes one with the own ids as 0, and a private mount namespace. To be called before the first thread. Empty: done;
// else why not.
inline std::string enterUserNamespace() {
  if (inUserNamespace()) return ::unshare(CLONE_NEWNS) == 0 ? "" : "no mount namespace";
  std::string uid = "0 " + std::to_string(::getuid()) + " 1", gid = "0 " + std::to_string(::getgid()) + " 1";
  if (::unshare(CLONE_NEWUSER | CLONE_NEWNS) != 0) return "the kernel refuses user namespaces";
  auto put = [](const char* path, const std::string& text) {
    int fd = ::open(path, O_WRONLY | O_CLOEXEC);
    bool done = fd >= 0 && ::write(fd, text.data(), text.size()) == static_cast<ssize_t>(text.size());
    if (fd >= 0) ::close(fd);
    return done;
  };
  if (!put("/proc/self/setgroups", "deny") || !put("/proc/self/uid_map", uid) || !put("/proc/self/gid_map", gid))
    return "the kernel refuses to map own ids";
  ::mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr);
  return "";
}

// A directory on a real disk (the temporary one may be a tmpfs, which has no user.* attributes before 6.6), removed at
// the end by its user.
inline std::string makeTestDirectory() {
  const char* base = ::getenv("USERPOD_TEST_DIR");
  std::string path = std::string(base != nullptr ? base : "/var/tmp") + "/userpod-test-XXXXXX";
  return ::mkdtemp(path.data()) != nullptr ? path : std::string();
}

}  // namespace userpod::testing

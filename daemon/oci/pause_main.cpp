// userpod-pause: the first process of a PID namespace that the containers of a pod share. It reaps whom they leave
// behind, and does nothing else: no root directory, no descriptor, no capability, three system calls.
//
//   userpod-pause ROOT UID GID GROUP,... NAMESPACE...
//
// Joins the namespaces (files), makes its own PID, mount and cgroup namespace with the empty file system mounted on
// ROOT as its root, becomes the user, says its number (as its caller sees it) on standard output and goes on without
// parent. Static and without the C++ library, for the sake of a few pages: there is one for each pod. facts:
// pid_namespaces(7), capabilities(7), seccomp(2).
#include <fcntl.h>
#include <grp.h>
#include <linux/capability.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstddef>
#include <cstdio>
#include <cstdlib>
#include <cstring>

namespace {

constexpr std::size_t kGroupsMax = 65536;

// "" when a step has worked, else its name: errno says why.
using Failed = const char*;

// The old root is put over the new one and taken away: nothing of it can be reached any more.
Failed leaveRoot(const char* root) {
  if (::mount("", "/", nullptr, MS_REC | MS_PRIVATE, nullptr) < 0) return "make the mounts private";
  if (::mount("pause", root, "tmpfs", MS_NOSUID | MS_NODEV | MS_NOEXEC | MS_RDONLY, "mode=0555,size=4k") < 0)
    return "mount an empty root";
  if (::chdir(root) < 0) return "enter the empty root";
  if (::syscall(SYS_pivot_root, ".", ".") < 0) return "pivot_root";
  if (::umount2(".", MNT_DETACH) < 0) return "unmount the old root";
  return "";
}

Failed becomeUser(char** words) {
  static gid_t groups[kGroupsMax];
  std::size_t count = 0;
  for (char* word = ::strtok(words[2], ","); word != nullptr && count < kGroupsMax; word = ::strtok(nullptr, ","))
    groups[count++] = static_cast<gid_t>(std::strtoul(word, nullptr, 10));
  for (int number = 0; ::prctl(PR_CAPBSET_READ, number) >= 0; ++number)
    if (::prctl(PR_CAPBSET_DROP, number) < 0) return "drop capabilities";
  if (::setgroups(count, groups) < 0) return "supplemental_groups";
  auto gid = static_cast<gid_t>(std::strtoul(words[1], nullptr, 10));
  if (::setresgid(gid, gid, gid) < 0) return "run_as_group";
  auto uid = static_cast<uid_t>(std::strtoul(words[0], nullptr, 10));
  if (::setresuid(uid, uid, uid) < 0) return "run_as_user";
  __user_cap_header_struct header{_LINUX_CAPABILITY_VERSION_3, 0};
  __user_cap_data_struct none[2] = {};
  if (::syscall(SYS_capset, &header, none) < 0) return "drop capabilities";
  // Containers of the same user may look at each other by /proc, not at this one.
  if (::prctl(PR_SET_DUMPABLE, 0) < 0) return "become undumpable";
  return "";
}

Failed restrictCalls() {
  sock_filter program[] = {
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, nr)),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_rt_sigtimedwait, 3, 0),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_wait4, 2, 0),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_close, 1, 0),  // the pipe to the parent, once
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
  };
  sock_fprog filter{sizeof program / sizeof program[0], program};
  if (::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0) return "no_new_privs";
  if (::prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &filter) < 0 && errno != EINVAL) return "seccomp";
  return "";
}

// The process itself. `parent` is closed when all is well.
[[noreturn]] void holdNamespace(char** words, int parent) {
  // Blocked, so that no signal of a container ends or stops the pod; only the daemon's SIGKILL from above does.
  sigset_t all;
  ::sigfillset(&all);
  ::sigprocmask(SIG_SETMASK, &all, nullptr);
  ::setsid();
  ::prctl(PR_SET_NAME, "pause");
  const char* failed = leaveRoot(words[0]);
  if (*failed == '\0') failed = becomeUser(words + 1);
  // Containers see the command line, whose paths are none of their business.
  for (; *words != nullptr; ++words) std::memset(*words, 0, std::strlen(*words));
  ::close_range(0, static_cast<unsigned>(parent) - 1, 0);
  ::close_range(static_cast<unsigned>(parent) + 1, ~0U, 0);
  if (*failed == '\0') failed = restrictCalls();
  if (*failed != '\0') {
    ::dprintf(parent, "%s: %s", failed, ::strerror(errno));
    ::_exit(1);
  }
  ::close(parent);
  sigset_t children;
  ::sigemptyset(&children);
  ::sigaddset(&children, SIGCHLD);
  for (;;) {
    ::sigtimedwait(&children, nullptr, nullptr);
    while (::waitpid(-1, nullptr, WNOHANG) > 0) {
    }
  }
}

int fail(const char* step, const char* object) {
  std::fprintf(stderr, "userpod-pause: %s %s: %s\n", step, object, ::strerror(errno));
  return 1;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 5) {
    std::fputs("usage: userpod-pause ROOT UID GID GROUP,... NAMESPACE...\nStarted by userpodd for a pod.\n", stderr);
    return 64;
  }
  for (int i = 5; i < argc; ++i) {
    int fd = ::open(argv[i], O_RDONLY | O_CLOEXEC);
    if (fd < 0 || ::setns(fd, 0) < 0) return fail("join", argv[i]);
    ::close(fd);
  }
  if (::unshare(CLONE_NEWPID | CLONE_NEWNS | CLONE_NEWCGROUP) < 0) return fail("make", "namespaces");
  int words[2];
  if (::pipe(words) < 0) return fail("make", "a pipe");
  pid_t pid = ::fork();
  if (pid < 0) return fail("make", "a process");
  if (pid == 0) holdNamespace(argv + 1, words[1]);
  ::close(words[1]);
  char text[256] = {};
  ssize_t count = ::read(words[0], text, sizeof text - 1);
  if (count == 0 && ::waitpid(pid, nullptr, WNOHANG) == 0) {
    std::printf("%d\n", static_cast<int>(pid));
    return 0;
  }
  std::fprintf(stderr, "%s\n", count > 0 ? text : "the process ended at once");
  ::kill(pid, SIGKILL);
  ::waitpid(pid, nullptr, 0);
  return 1;
}

#include "daemon/images/transfer/confine_transfer.hpp"

#include <fcntl.h>
#include <sched.h>
#include <seccomp.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <memory>

#include "daemon/sys/fd.hpp"
#include "daemon/sys/mount.hpp"
#include "daemon/sys/privileges.hpp"

namespace userpod::images {

namespace {

constexpr const char* kPins = "/run/userpod";   // of the node: the pods' namespaces, bound below it
constexpr const char* kHostRun = "/run/.host";  // in the node: the host's /run once more, whole

// landlock(7), ABI 6, which is newer than the headers: <linux/landlock.h>.
struct LandlockRuleset {
  std::uint64_t accessFs = 0;
  std::uint64_t accessNet = 0;
  std::uint64_t scoped = 0;
};
constexpr std::uint64_t kScopeAbstractSockets = 1;
constexpr std::uint64_t kScopeSignals = 2;

// Resolvers of names load code and talk to daemons of the system, and libraries change with their versions: so this is
// a list of what is refused. By name: some are missing on some architectures, and some are newer than the library.
constexpr const char* kRefused[] = {
    // programs and processes
    "execve", "execveat", "fork", "vfork",
    // other processes
    "ptrace", "process_vm_readv", "process_vm_writev", "process_madvise", "kcmp", "kill", "tkill", "rt_sigqueueinfo",
    "rt_tgsigqueueinfo", "pidfd_open", "pidfd_getfd", "pidfd_send_signal",
    // namespaces and mounts
    "unshare", "setns", "chroot", "pivot_root", "mount", "umount", "umount2", "open_tree", "move_mount", "fsopen",
    "fsconfig", "fsmount", "fspick", "mount_setattr",
    // much code of the kernel that no client of a registry needs
    "add_key", "request_key", "keyctl", "bpf", "perf_event_open", "userfaultfd", "io_uring_setup", "io_uring_enter",
    "io_uring_register", "name_to_handle_at", "open_by_handle_at", "personality", "modify_ldt", "quotactl", "swapon",
    "swapoff", "acct", "reboot", "kexec_load", "kexec_file_load", "init_module", "finit_module", "delete_module",
    "fanotify_init", "mq_open", "shmget", "shmat", "msgget", "semget"};

Status refuseSystemCalls() {
  std::unique_ptr<void, void (*)(scmp_filter_ctx)> filter(::seccomp_init(SCMP_ACT_ALLOW), ::seccomp_release);
  if (!filter) return sysError("confine: a filter of system calls", ENOMEM);
  int failed = 0;
  auto refuse = [&](const char* name, int with, auto... conditions) {
    int number = ::seccomp_syscall_resolve_name(name);
    if (number == __NR_SCMP_ERROR || failed != 0) return;
    int code = ::seccomp_rule_add(filter.get(), SCMP_ACT_ERRNO(static_cast<std::uint16_t>(with)), number,
                                  sizeof...(conditions), conditions...);
    if (code != 0 && code != -EDOM) failed = code;
  };
  for (const char* name : kRefused) refuse(name, EPERM);
  // Limits of other processes, and signals to them by way of a descriptor: both need no more than the same user.
  for (const char* name : {"prlimit64", "prlimit"}) refuse(name, EPERM, SCMP_A0(SCMP_CMP_NE, 0));
  for (int command : {F_SETOWN, F_SETOWN_EX, F_SETSIG})
    for (const char* name : {"fcntl", "fcntl64"})
      refuse(name, EPERM, SCMP_A1(SCMP_CMP_EQ, static_cast<scmp_datum_t>(command)));
  for (unsigned long request : {static_cast<unsigned long>(FIOSETOWN), static_cast<unsigned long>(SIOCSPGRP)})
    refuse("ioctl", EPERM, SCMP_A1(SCMP_CMP_EQ, request));
  refuse("tgkill", EPERM, SCMP_A0(SCMP_CMP_NE, static_cast<scmp_datum_t>(::getpid())));
  // Threads, no processes. The newer call hides its flags behind a pointer: the C library falls back from ENOSYS.
  refuse("clone", EPERM, SCMP_A0(SCMP_CMP_MASKED_EQ, CLONE_THREAD, 0));
  refuse("clone3", ENOSYS);
  if (failed == 0) failed = ::seccomp_load(filter.get());
  return failed == 0 ? Status() : sysError("confine: filter system calls", -failed);
}

Status leaveMounts(const std::string& runtime, const std::string& data) {
  if (::unshare(CLONE_NEWNS) < 0) return sysError("confine: a mount namespace");
  USERPOD_CHECK(setPropagation("/", MS_REC | MS_PRIVATE));
  USERPOD_CHECK(unmountDetached(kHostRun));
  // The copy of a mount that its owner unmounts would live on here, and so would the namespace of a pod that is pinned.
  USERPOD_TRY(mounts, mountsBelow({data, kPins}));
  for (const auto& mount : mounts) USERPOD_CHECK(unmountDetached(mount.target));
  // The buses and the user's systemd would do for a client what it cannot do itself; programs leave sockets in /tmp
  // too.
  for (const auto& place : {runtime, std::string("/run/dbus"), std::string("/tmp")})
    if (!place.empty() && pathExists(place))
      USERPOD_CHECK(mountFilesystem("tmpfs", "none", place, MS_NOSUID | MS_NODEV | MS_NOEXEC, "mode=0500,size=4k"));
  mount_attr readOnly{};
  readOnly.attr_set = MOUNT_ATTR_RDONLY;
  if (::mount_setattr(AT_FDCWD, "/", AT_RECURSIVE, &readOnly, sizeof readOnly) < 0)
    return sysError("confine: make all mounts read-only");
  return {};
}

// Abstract sockets (an X server's) have no place to be covered, and the network namespace is the host's. Kernels
// before 6.12 cannot.
void leaveAbstractSockets() {
  LandlockRuleset ruleset;
  ruleset.scoped = kScopeAbstractSockets | kScopeSignals;
  UniqueFd rules(static_cast<int>(::syscall(SYS_landlock_create_ruleset, &ruleset, sizeof ruleset, 0)));
  if (rules) (void)::syscall(SYS_landlock_restrict_self, rules.get(), 0);
}

}  // namespace

Status confineTransfer(const std::string& runtime, const std::string& data) {
  USERPOD_CHECK(leaveMounts(runtime, data));
  USERPOD_CHECK(keepCapabilities(0));
  leaveAbstractSockets();
  return refuseSystemCalls();
}

}  // namespace userpod::images

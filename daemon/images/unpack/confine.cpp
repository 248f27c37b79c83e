#include "daemon/images/unpack/confine.hpp"

#include <fcntl.h>
#include <iconv.h>
#include <linux/capability.h>
#include <sched.h>
#include <seccomp.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <termios.h>
#include <unistd.h>

#include <cerrno>
#include <memory>

#include "daemon/sys/privileges.hpp"

namespace userpod::images {

namespace {

// By name: some are missing on some architectures, and some are newer than the library.
constexpr const char* kAllowed[] = {
    // what it was given, and the files it makes
    "read", "readv", "pread64", "write", "writev", "pwrite64", "lseek", "_llseek", "close", "dup", "fstat", "fstat64",
    "fstatat64", "newfstatat", "statx", "statfs", "statfs64", "fstatfs", "fstatfs64", "open", "openat", "openat2",
    "ftruncate", "ftruncate64", "fallocate", "sync_file_range", "sync_file_range2", "fchmod", "fchmodat", "fchown",
    "fchown32", "fchownat", "utimensat", "utimensat_time64", "mkdirat", "mknodat", "linkat", "symlinkat", "unlinkat",
    "renameat", "renameat2", "getdents64", "readlinkat", "fsetxattr", "umask", "poll", "ppoll", "eventfd2",
    // by a pipe the sanitizers ask what memory can be read
    "pipe", "pipe2",
    // memory and threads
    "brk", "munmap", "mremap", "madvise", "futex", "futex_time64", "set_robust_list", "rseq", "sched_yield",
    "sched_getaffinity", "gettid", "getpid", "getuid", "geteuid", "exit", "exit_group",
    // signals of its own, time, chance
    "rt_sigaction", "rt_sigprocmask", "rt_sigreturn", "sigaltstack", "restart_syscall", "clock_gettime",
    "clock_gettime64", "clock_nanosleep", "clock_nanosleep_time64", "nanosleep", "gettimeofday", "getrandom"};

Status filterSystemCalls() {
  std::unique_ptr<void, void (*)(scmp_filter_ctx)> filter(::seccomp_init(SCMP_ACT_ERRNO(EPERM)), ::seccomp_release);
  if (!filter) return sysError("confine: a filter of system calls", ENOMEM);
  int failed = 0;
  auto allow = [&](const char* name, auto... conditions) {
    int number = ::seccomp_syscall_resolve_name(name);
    if (number == __NR_SCMP_ERROR || failed != 0) return;
    int code = ::seccomp_rule_add(filter.get(), SCMP_ACT_ALLOW, number, sizeof...(conditions), conditions...);
    if (code != 0 && code != -EDOM) failed = code;
  };
  for (const char* name : kAllowed) allow(name);
  for (int command : {F_DUPFD, F_DUPFD_CLOEXEC, F_GETFD, F_SETFD, F_GETFL})
    for (const char* name : {"fcntl", "fcntl64"}) allow(name, SCMP_A1(SCMP_CMP_EQ, static_cast<scmp_datum_t>(command)));
  // No code but what is there already: a layer may bring files that the C library would load.
  for (const char* name : {"mmap", "mmap2", "mprotect"}) allow(name, SCMP_A2(SCMP_CMP_MASKED_EQ, PROT_EXEC, 0));
  allow("tgkill", SCMP_A0(SCMP_CMP_EQ, static_cast<scmp_datum_t>(::getpid())));
  // Threads, no processes. The newer call hides its flags behind a pointer: the C library falls back from ENOSYS.
  allow("clone", SCMP_A0(SCMP_CMP_MASKED_EQ, CLONE_THREAD, CLONE_THREAD));
  if (failed == 0) failed = ::seccomp_rule_add(filter.get(), SCMP_ACT_ERRNO(ENOSYS), SCMP_SYS(clone3), 0);
  // Whether standard error is a terminal, for the log.
  allow("ioctl", SCMP_A1(SCMP_CMP_EQ, TCGETS));
  if (failed == 0) failed = ::seccomp_load(filter.get());
  return failed == 0 ? Status() : sysError("confine: filter system calls", -failed);
}

}  // namespace

Status confine(int directory) {
  // The C library reads its configuration of character sets at the first use, and libarchive uses them: from here, not
  // from the layer.
  if (auto converter = ::iconv_open("ANSI_X3.4-1968", "UTF-8"); converter != iconv_t(-1)) ::iconv_close(converter);
  rlimit none{0, 0};
  ::setrlimit(RLIMIT_CORE, &none);
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
  // A window of zstd, a map of a sparse file and the times of directories, at their largest.
  rlimit memory{384U << 20, 384U << 20};
  ::setrlimit(RLIMIT_DATA, &memory);
#endif
  if (::fchdir(directory) < 0 || ::chroot(".") < 0) return sysError("confine to the layer's directory");
  USERPOD_CHECK(keepCapabilities(1U << CAP_CHOWN | 1U << CAP_DAC_OVERRIDE | 1U << CAP_FOWNER | 1U << CAP_FSETID |
                                 1ULL << CAP_SETFCAP));
  return filterSystemCalls();
}

}  // namespace userpod::images

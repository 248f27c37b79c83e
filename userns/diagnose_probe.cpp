// Trying, in a process of its own, what the kernel or a security module may refuse whatever the settings say.
// The process is forked from a program that may have threads, so it does nothing but system calls on ready-made text.
#include <fcntl.h>
#include <linux/sched.h>
#include <sched.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>

#include "daemon/sys/child.hpp"
#include "userns/diagnose_checks.hpp"

namespace userpod::diagnose {
namespace {

struct Overlay {
  std::string top, merged, options, file;
};

struct Texts {
  std::string uidMap, gidMap;
  const Overlay* overlay = nullptr;
};

bool writeKernelFile(const char* path, const std::string& text) {
  int fd = ::open(path, O_WRONLY | O_CLOEXEC);
  if (fd < 0) return false;
  bool written = ::write(fd, text.data(), text.size()) == static_cast<ssize_t>(text.size());
  int failed = errno;
  ::close(fd);
  errno = failed;
  return written;
}

Probe::Step tryOut(const Texts& texts) {
  if (::unshare(CLONE_NEWUSER | CLONE_NEWNS) < 0) return Probe::Step::UserNamespace;
  // A group map may be written only after setgroups(2) was given up; where it already was, this file cannot be written.
  static const std::string deny = "deny";
  (void)writeKernelFile("/proc/self/setgroups", deny);
  if (!writeKernelFile("/proc/self/uid_map", texts.uidMap) || !writeKernelFile("/proc/self/gid_map", texts.gidMap))
    return Probe::Step::IdMap;
  if (::mount("none", "/", nullptr, MS_REC | MS_PRIVATE, nullptr) < 0) return Probe::Step::Mount;
  if (texts.overlay == nullptr) {
    return ::mount("tmpfs", "/proc", "tmpfs", 0, nullptr) < 0 ? Probe::Step::Mount : Probe::Step::Done;
  }
  const Overlay& overlay = *texts.overlay;
  if (::mount("overlay", overlay.merged.c_str(), "overlay", 0, overlay.options.c_str()) < 0) return Probe::Step::Mount;
  int fd = ::open(overlay.file.c_str(), O_CREAT | O_EXCL | O_WRONLY | O_CLOEXEC, 0644);
  int failed = errno;
  if (fd >= 0) ::close(fd);
  ::umount2(overlay.merged.c_str(), MNT_DETACH);
  errno = failed;
  return fd < 0 ? Probe::Step::Write : Probe::Step::Done;
}

Probe inChild(const Texts& texts) {
  auto pipe = makePipe();
  if (!pipe) return {Probe::Step::Fork, pipe.error().sysErrno()};
  int pidfd = -1;
  clone_args arguments{};
  arguments.flags = CLONE_PIDFD;
  arguments.pidfd = reinterpret_cast<std::uint64_t>(&pidfd);
  arguments.exit_signal = SIGCHLD;
  long pid = ::syscall(SYS_clone3, &arguments, sizeof(arguments));
  if (pid < 0) return {Probe::Step::Fork, errno};
  if (pid == 0) {
    Probe probe;
    probe.step = tryOut(texts);
    if (probe.step != Probe::Step::Done) probe.sysErrno = errno;
    ::syscall(SYS_exit_group, ::write(pipe->write.get(), &probe, sizeof(probe)) == sizeof(probe) ? 0 : 1);
  }
  Child child(static_cast<pid_t>(pid), UniqueFd(pidfd));
  pipe->write.reset();
  Probe probe;
  ssize_t count = 0;
  do count = ::read(pipe->read.get(), &probe, sizeof(probe));
  while (count < 0 && errno == EINTR);
  (void)child.wait();
  return count == sizeof(probe) ? probe : Probe{Probe::Step::Fork, EIO};
}

Texts ownMaps() {
  return {"0 " + std::to_string(::geteuid()) + " 1", "0 " + std::to_string(::getegid()) + " 1"};
}

}  // namespace

Probe probeUserNamespace() {
  return inChild(ownMaps());
}

Probe probeOverlay(const std::string& directory) {
  std::string pattern = directory + "/.userpod-probe-XXXXXX";
  if (::mkdtemp(pattern.data()) == nullptr) return {Probe::Step::Write, errno};
  Overlay overlay;
  overlay.top = pattern;
  overlay.merged = pattern + "/merged";
  overlay.file = overlay.merged + "/file";
  overlay.options =
      "lowerdir=" + pattern + "/lower,upperdir=" + pattern + "/upper,workdir=" + pattern + "/work,userxattr";
  for (const char* part : {"/lower", "/upper", "/work", "/merged"}) (void)::mkdir((pattern + part).c_str(), 0755);
  Texts texts = ownMaps();
  texts.overlay = &overlay;
  Probe probe = inChild(texts);
  // The kernel leaves an empty directory without permissions in the work directory.
  (void)::unlink((pattern + "/upper/file").c_str());
  for (const char* part : {"/work/work", "/work/index", "/lower", "/upper", "/work", "/merged", ""})
    (void)::rmdir((pattern + part).c_str());
  return probe;
}

}  // namespace userpod::diagnose

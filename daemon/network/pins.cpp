#include "daemon/network/pins.hpp"

#include <fcntl.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <cerrno>

#include "daemon/sys/fd.hpp"
#include "daemon/sys/mount.hpp"
#include "daemon/sys/util.hpp"

namespace userpod::network {
namespace {

constexpr std::array kNamespaces = {"net", "ipc", "uts"};
// 64 MiB, what Docker, CRI-O and containerd give.
constexpr const char* kShmOptions = "mode=1777,size=65536k";
constexpr unsigned long kShmFlags = MS_NOSUID | MS_NODEV | MS_NOEXEC;

// Private: what is mounted below must not be copied to other mount namespaces, where it would keep namespaces alive.
Status mountPrivateTmpfs(const std::string& target, unsigned long flags, const std::string& options) {
  USERPOD_CHECK(makeDirectories(target, 0700));
  USERPOD_TRY(mounted, isMountPoint(target));
  if (mounted) return {};
  USERPOD_CHECK(mountFilesystem("tmpfs", "userpod", target, flags, options));
  return setPropagation(target, MS_PRIVATE);
}

Status removeFile(const std::string& path) {
  if (::unlink(path.c_str()) < 0 && errno != ENOENT) return sysError("remove " + path);
  return {};
}

Status removeDirectory(const std::string& path) {
  if (::rmdir(path.c_str()) < 0 && errno != ENOENT) return sysError("remove " + path);
  return {};
}

}  // namespace

Result<Pins> Pins::open(const Paths& paths) {
  Pins pins(paths);
  USERPOD_CHECK(mountPrivateTmpfs(paths.node + "/ns", MS_NOSUID | MS_NODEV | MS_NOEXEC, "mode=0700,size=16m"));
  USERPOD_CHECK(mountPrivateTmpfs(pins.nodeShm(), kShmFlags, kShmOptions));
  return pins;
}

Status Pins::begin(const std::string& podId) const {
  return makeDirectories(paths_.pin(podId), 0700);
}

Status Pins::pin(const std::string& podId, const std::string& name) const {
  std::string target = file(podId, name);
  USERPOD_CHECK(writeFile(target, "", 0600));
  return bindMount("/proc/thread-self/ns/" + name, target, false);
}

Status Pins::enter(const std::string& podId, const std::string& name) const {
  USERPOD_TRY(space, openFile(file(podId, name), O_RDONLY));
  if (::setns(space.get(), 0) < 0) return sysError("enter " + file(podId, name));
  return {};
}

Status Pins::remove(const std::string& podId) const {
  Status result;
  auto note = [&](Status status) {
    if (!status && result) result = std::move(status);
  };
  for (const char* name : kNamespaces) {
    std::string target = file(podId, name);
    // Unmounted, then unlinked: the unlink also detaches copies that another mount namespace may have made.
    note(unmountDetached(target));
    note(removeFile(target));
  }
  note(removeDirectory(paths_.pin(podId)));
  return result;
}

Status Pins::mountShm(const std::string& podId, bool ofNode) const {
  std::string target = shm(podId);
  USERPOD_CHECK(makeDirectories(target, 0700));
  // Not the node's /dev/shm, which is that of the user's desktop.
  if (ofNode) return bindMount(nodeShm(), target, false);
  USERPOD_CHECK(mountFilesystem("tmpfs", "shm", target, kShmFlags, kShmOptions));
  return setPropagation(target, MS_PRIVATE);
}

Status Pins::unmountShm(const std::string& podId) const {
  std::string target = shm(podId);
  USERPOD_CHECK(unmountDetached(target));
  return removeDirectory(target);
}

}  // namespace userpod::network

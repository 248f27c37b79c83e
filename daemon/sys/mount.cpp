#include "daemon/sys/mount.hpp"

#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/statvfs.h>

#include <cerrno>

namespace userpod {

Status mountFilesystem(const std::string& type, const std::string& source, const std::string& target,
                       unsigned long flags, const std::string& data) {
  if (::mount(source.c_str(), target.c_str(), type.c_str(), flags, data.empty() ? nullptr : data.c_str()) < 0)
    return sysError("mount " + type + " on " + target);
  return {};
}

Status bindMount(const std::string& source, const std::string& target, bool recursive) {
  unsigned long flags = MS_BIND;
  if (recursive) flags |= MS_REC;
  if (::mount(source.c_str(), target.c_str(), nullptr, flags, nullptr) < 0)
    return sysError("bind " + source + " on " + target);
  return {};
}

Status remountReadOnly(const std::string& target) {
  struct statvfs info{};
  if (::statvfs(target.c_str(), &info) < 0) return sysError("statvfs " + target);
  unsigned long keep = 0;
  if ((info.f_flag & ST_NOSUID) != 0) keep |= MS_NOSUID;
  if ((info.f_flag & ST_NODEV) != 0) keep |= MS_NODEV;
  if ((info.f_flag & ST_NOEXEC) != 0) keep |= MS_NOEXEC;
  if ((info.f_flag & ST_NOATIME) != 0) keep |= MS_NOATIME;
  if ((info.f_flag & ST_NODIRATIME) != 0) keep |= MS_NODIRATIME;
  if ((info.f_flag & ST_RELATIME) != 0) keep |= MS_RELATIME;
  if (::mount(nullptr, target.c_str(), nullptr, MS_REMOUNT | MS_BIND | MS_RDONLY | keep, nullptr) < 0)
    return sysError("make read-only " + target);
  return {};
}

Status moveMount(const std::string& source, const std::string& target) {
  if (::mount(source.c_str(), target.c_str(), nullptr, MS_MOVE, nullptr) < 0)
    return sysError("move mount " + source + " to " + target);
  return {};
}

Status setPropagation(const std::string& target, unsigned long flags) {
  if (::mount(nullptr, target.c_str(), nullptr, flags, nullptr) < 0) return sysError("set propagation of " + target);
  return {};
}

Status unmountDetached(const std::string& target) {
  if (::umount2(target.c_str(), MNT_DETACH | UMOUNT_NOFOLLOW) < 0 && errno != EINVAL && errno != ENOENT)
    return sysError("unmount " + target);
  return {};
}

Result<bool> isMountPoint(const std::string& path) {
  struct statx info{};
  if (::statx(AT_FDCWD, path.c_str(), AT_SYMLINK_NOFOLLOW, 0, &info) < 0) return sysError("stat " + path);
  return (info.stx_attributes & STATX_ATTR_MOUNT_ROOT) != 0;
}

}  // namespace userpod

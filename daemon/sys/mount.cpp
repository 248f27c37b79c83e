#include "daemon/sys/mount.hpp"

#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/statvfs.h>

#include <cerrno>
#include <filesystem>

#include "daemon/sys/util.hpp"

namespace userpod {
namespace {

// Some hundred bytes a mount, of which a namespace may have 100000: sysctl fs.mount-max.
constexpr std::size_t kLongestMountinfo = 64U << 20;

// "\040" stands for a space.
std::string unescapedPath(std::string_view text) {
  std::string plain;
  for (std::size_t at = 0; at < text.size(); ++at) {
    if (text[at] != '\\' || at + 3 >= text.size()) {
      plain += text[at];
      continue;
    }
    plain += static_cast<char>((text[at + 1] - '0') * 64 + (text[at + 2] - '0') * 8 + (text[at + 3] - '0'));
    at += 3;
  }
  return plain;
}

}  // namespace

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

// id parent major:minor root target options [shared:N] [master:N] - type source super
std::vector<MountPoint> parseMountinfo(std::string_view text) {
  constexpr std::size_t kTarget = 4;
  std::vector<MountPoint> found;
  for (const auto& line : split(text, '\n')) {
    auto separator = line.find(" - ");
    if (separator == std::string::npos) continue;
    auto fields = split(std::string_view(line).substr(0, separator), ' ');
    auto source = split(std::string_view(line).substr(separator + 3), ' ');
    if (fields.size() <= kTarget || source.empty()) continue;
    MountPoint mount{unescapedPath(fields[kTarget]), source.front()};
    for (auto field = fields.begin() + kTarget + 1; field != fields.end(); ++field) {
      mount.shared |= field->starts_with("shared:");
      mount.slave |= field->starts_with("master:");
    }
    found.push_back(std::move(mount));
  }
  return found;
}

Result<std::vector<MountPoint>> readMounts() {
  USERPOD_TRY(text, readFile("/proc/self/mountinfo", kLongestMountinfo));
  return parseMountinfo(text);
}

Result<std::vector<MountPoint>> mountsBelow(const std::vector<std::string>& directories) {
  USERPOD_TRY(all, readMounts());
  std::vector<MountPoint> found;
  for (const auto& directory : directories) {
    std::error_code failed;
    std::string real = std::filesystem::canonical(directory, failed).string() + "/";
    if (failed == std::errc::no_such_file_or_directory) continue;
    if (failed) return sysError("resolve " + directory, failed.value());
    for (const auto& mount : all) {
      if (!mount.target.starts_with(real)) continue;
      found.push_back(mount);
      found.back().target = directory + "/" + mount.target.substr(real.size());
    }
  }
  return found;
}

}  // namespace userpod

// What a container's own /etc is given before it starts, as the OCI runtime mounts nothing there: a line for a user
// that the image does not know, since libraries want a name, and the link by which programs list mounts.
#include <fcntl.h>
#include <fmt/core.h>
#include <linux/openat2.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>

#include "daemon/oci/spec.hpp"

namespace userpod::oci {
namespace {

constexpr std::uint64_t kInside = RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS;

// An image is not trusted: what is no plain file, and one that is not there, stay as they are.
Status appendLine(int rootfs, const std::string& path, const std::string& line) {
  auto file = openResolved(rootfs, path, O_RDWR | O_APPEND | O_NONBLOCK | O_NOCTTY, kInside);
  if (!file) return {};
  struct stat info{};
  if (::fstat(file->get(), &info) < 0 || !S_ISREG(info.st_mode)) return {};
  char last = '\n';
  if (info.st_size > 0 && ::pread(file->get(), &last, 1, info.st_size - 1) < 0) return sysError("read /" + path);
  auto written = writeAll(file->get(), (last == '\n' ? "" : "\n") + line + "\n");
  return written ? Status() : Status(std::move(written).error().wrap("/" + path + " of the container"));
}

// mount(8) and its kin once kept a file of their own there.
Status linkMountTable(int rootfs) {
  auto etc = openResolved(rootfs, "etc", O_PATH | O_DIRECTORY, kInside);
  if (!etc || ::symlinkat("/proc/mounts", etc->get(), "mtab") == 0 || errno == EEXIST) return {};
  return sysError("make /etc/mtab of the container");
}

}  // namespace

Status addFiles(const SpecInput& input, const ResolvedUser& who) {
  USERPOD_TRY(rootfs, openRootfs(input));
  if (!who.userKnown)
    USERPOD_CHECK(appendLine(
        rootfs.get(), "etc/passwd",
        fmt::format("{0}:x:{0}:{1}:container user:{2}:/sbin/nologin", who.user.uid, who.user.gid, who.home)));
  if (!who.groupKnown) USERPOD_CHECK(appendLine(rootfs.get(), "etc/group", fmt::format("{0}:x:{0}:", who.user.gid)));
  return linkMountTable(rootfs.get());
}

}  // namespace userpod::oci

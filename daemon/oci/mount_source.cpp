#include "daemon/oci/mount_source.hpp"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <climits>
#include <cstdlib>
#include <memory>
#include <vector>

#include "daemon/sys/fd.hpp"
#include "daemon/sys/mount.hpp"
#include "daemon/sys/util.hpp"

namespace userpod::oci {
namespace {

Result<std::string> realPath(const std::string& path) {
  std::unique_ptr<char, void (*)(void*)> real(::realpath(path.c_str(), nullptr), &::free);
  if (!real) return sysError("host_path " + path);
  return std::string(real.get());
}

bool same(const struct stat& left, const struct stat& right) {
  return left.st_dev == right.st_dev && left.st_ino == right.st_ino;
}

// Walks up from a directory by "..", so that bind mounts and other names of the same directory count.
bool reaches(const std::string& from, const struct stat& wanted) {
  auto at = openFile(from, O_PATH);
  for (int depth = 0; at && depth < PATH_MAX / 2; ++depth) {
    struct stat here{};
    if (::fstat(at->get(), &here) < 0) return false;
    if (same(here, wanted)) return true;
    if (!S_ISDIR(here.st_mode)) {
      at = openFile(from.substr(0, from.rfind('/') + 1), O_PATH | O_DIRECTORY);
      continue;
    }
    auto up = openAt(at->get(), "..", O_PATH | O_DIRECTORY);
    struct stat above{};
    if (!up || ::fstat(up->get(), &above) < 0 || same(above, here)) return false;
    at = std::move(up);
  }
  return false;
}

// The node keeps the host's own /run at /run/.host.
std::string plainRun(const std::string& path) {
  constexpr std::string_view kHost = "/run/.host";
  if (path == kHost) return "/run";
  return path.starts_with(std::string(kHost) + "/") ? "/run" + path.substr(kHost.size()) : path;
}

bool below(const std::string& path, const std::string& above) {
  return path == above || above == "/" || path.starts_with(above + "/");
}

}  // namespace

Result<std::string> resolveSource(const std::string& path) {
  if (path.empty() || path.front() != '/')
    return Error(Code::InvalidArgument, "host_path \"" + path.substr(0, 256) + "\" is not absolute; begin it with /");
  auto real = realPath(path);
  if (!real && real.error().sysErrno() == ENOENT) {
    if (auto made = makeDirectories(path, 0755); !made)
      return std::move(made).error().wrap("host_path does not exist and cannot be made").as(Code::InvalidArgument);
    real = realPath(path);
  }
  if (!real) return std::move(real).error().as(Code::InvalidArgument);
  return real;
}

bool overlapsPrivate(const std::string& source, const std::string& directory) {
  if (directory.empty()) return false;
  auto real = realPath(directory);
  std::string own = real ? *real : directory;
  std::string asked = plainRun(source);
  if (below(asked, own) || below(own, asked)) return true;
  struct stat ofSource{};
  struct stat ofOwn{};
  if (::stat(source.c_str(), &ofSource) < 0 || ::stat(own.c_str(), &ofOwn) < 0) return false;
  return reaches(source, ofOwn) || reaches(own, ofSource);
}

Result<Propagation> propagationOf(const std::string& path) {
  USERPOD_TRY(mounts, readMounts());
  const MountPoint* best = nullptr;
  for (const auto& mount : mounts)
    if (below(path, mount.target) && (best == nullptr || mount.target.size() >= best->target.size())) best = &mount;
  if (best == nullptr) return Propagation::Private;
  return best->shared ? Propagation::Shared : best->slave ? Propagation::Slave : Propagation::Private;
}

}  // namespace userpod::oci

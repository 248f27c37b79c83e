#include "daemon/storage/copy_file.hpp"

#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <string>
#include <string_view>

namespace userpod::storage {
namespace {

bool isCopied(std::string_view attribute) {
  if (attribute.starts_with("user.overlay.") || attribute.starts_with("user.userpod.")) return false;
  return attribute.starts_with("user.") || attribute == "security.capability";
}

Status copyAttribute(int from, int to, const std::string& name) {
  std::string value(65536, '\0');  // XATTR_SIZE_MAX
  ssize_t length = ::fgetxattr(from, name.c_str(), value.data(), value.size());
  if (length < 0 || ::fsetxattr(to, name.c_str(), value.data(), static_cast<std::size_t>(length), 0) < 0)
    return sysError("copy " + name);
  return {};
}

Status copyAttributes(int from, int to) {
  if (::flistxattr(from, nullptr, 0) <= 0) return {};  // nothing, or a file system without
  std::string names(65536, '\0');                      // XATTR_LIST_MAX
  ssize_t size = ::flistxattr(from, names.data(), names.size());
  if (size < 0) return sysError("list extended attributes");
  for (std::size_t at = 0; at < static_cast<std::size_t>(size);) {
    std::string name = names.c_str() + at;
    at += name.size() + 1;
    if (isCopied(name)) USERPOD_CHECK(copyAttribute(from, to, name));
  }
  return {};
}

bool isFull(int code) {
  return code == ENOSPC || code == EDQUOT || code == EIO;
}

Status copyBytes(int from, int to, off_t begin, off_t end) {
  std::array<char, 65536> buffer{};
  while (begin < end) {
    auto wanted = std::min(buffer.size(), static_cast<std::size_t>(end - begin));
    ssize_t count = ::pread(from, buffer.data(), wanted, begin);
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) return sysError("read");
    if (count == 0) return Error(Code::StorageFailed, "the layer's file has become shorter");
    for (ssize_t done = 0; done < count;) {
      ssize_t written = ::pwrite(to, buffer.data() + done, static_cast<std::size_t>(count - done), begin + done);
      if (written < 0 && errno == EINTR) continue;
      if (written < 0) return sysError("write");
      done += written;
    }
    begin += count;
  }
  return {};
}

}  // namespace

Status FileCopier::copyData(int from, int to, const struct stat& info) {
  if (info.st_size == 0) return {};
  if (clones_) {
    if (::ioctl(to, FICLONE, from) == 0) return {};
    if (isFull(errno)) return sysError("clone");
    clones_ = false;
  }
  if (info.st_blocks * 512 >= info.st_size) return copyRange(from, to, 0, info.st_size);
  for (off_t at = 0; at < info.st_size;) {
    off_t begin = ::lseek(from, at, SEEK_DATA);
    if (begin < 0 && errno == ENXIO) break;
    off_t end = begin < 0 ? -1 : ::lseek(from, begin, SEEK_HOLE);
    if (end < 0) return copyRange(from, to, at, info.st_size);
    USERPOD_CHECK(copyRange(from, to, begin, end));
    at = end;
  }
  return ::ftruncate(to, info.st_size) < 0 ? sysError("set the size") : Status();
}

Status FileCopier::copyRange(int from, int to, off_t begin, off_t end) {
  off_t out = begin;
  while (ranges_ && begin < end) {
    ssize_t count = ::copy_file_range(from, &begin, to, &out, static_cast<std::size_t>(end - begin), 0);
    if (count > 0 || (count < 0 && errno == EINTR)) continue;
    if (count < 0 && isFull(errno)) return sysError("copy");
    ranges_ = false;
  }
  return copyBytes(from, to, begin, end);
}

// Owner first: chown clears setuid, setgid and file capabilities.
Status FileCopier::copyMetadata(int from, int to, const struct stat& info) {
  if (::fchown(to, info.st_uid, info.st_gid) < 0) return sysError("set the owner");
  if (::fchmod(to, info.st_mode & 07777) < 0) return sysError("set the mode");
  return copyAttributes(from, to);
}

}  // namespace userpod::storage

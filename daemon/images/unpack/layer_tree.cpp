#include "daemon/images/unpack/layer_tree.hpp"

#include <fmt/core.h>
#include <linux/openat2.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <array>
#include <cerrno>

#include "daemon/images/invalid.hpp"
#include "daemon/storage/layer_format.hpp"
#include "daemon/sys/log.hpp"
#include "daemon/sys/util.hpp"

namespace userpod::images {

namespace {

constexpr std::size_t kLongestPath = 4096;
constexpr std::size_t kMostOpen = 128;
constexpr off_t kWorthWriting = 128 << 10;
constexpr std::uint64_t kInside = RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS;

Error fileError(std::string_view what, const EntryPath& path, int code) {
  auto error = sysError(fmt::format("{} /{} of the layer", what, path.shown()), code);
  return error.code() == Code::System ? std::move(error).as(Code::StorageFailed) : error;
}

}  // namespace

Result<EntryPath> parseEntryPath(std::string_view path) {
  if (path.empty()) return invalidImage("an entry of the layer has no name");
  if (path.size() > kLongestPath)
    return invalidImage(fmt::format("a path of {} bytes, more than {}", path.size(), kLongestPath));
  EntryPath found;
  const std::string_view whole = path;
  while (!path.empty()) {
    auto end = std::min(path.find('/'), path.size());
    std::string_view part = path.substr(0, end);
    path.remove_prefix(std::min(end + 1, path.size()));
    if (part.empty() || part == ".") continue;
    if (part == "..") return invalidImage(fmt::format("an entry of the layer would leave it: {}", excerpt(whole, 200)));
    if (!found.name.empty()) {
      if (!found.parent.empty()) found.parent += '/';
      found.parent += found.name;
    }
    found.name = part;
  }
  return found;
}

AttributeRule attributeRule(std::string_view name) {
  if (name.starts_with("user.overlay.") || name.starts_with("user.userpod.")) return AttributeRule::Refuse;
  if (name.starts_with("user.") || name == "security.capability") return AttributeRule::Set;
  return AttributeRule::Skip;
}

Result<int> LayerTree::openDirectory(const std::string& directory, bool make) {
  if (directory.empty()) return root_;
  if (auto found = directories_.find(directory); found != directories_.end()) return found->second.get();
  auto opened = openResolved(root_, directory, O_PATH | O_DIRECTORY, kInside);
  if (!opened && opened.error().sysErrno() == ENOENT && make) {
    USERPOD_TRY(path, parseEntryPath(directory));
    USERPOD_TRY(parent, openDirectory(path.parent, true));
    if (::mkdirat(parent, path.name.c_str(), 0755) == 0) {
      ++inodes_;
      if (uncover(parent, path.name)) USERPOD_CHECK(markOpaque(parent, path));
      // Independent of umask, and of a parent's setgid bit.
      USERPOD_CHECK(setOwner(parent, path.name, path, {}));
      ::fchmodat(parent, path.name.c_str(), 0755, 0);
    } else if (errno != EEXIST) {
      return fileError("make directory", path, errno);
    }
    opened = openResolved(root_, directory, O_PATH | O_DIRECTORY, kInside);
  }
  if (!opened) {
    int code = opened.error().sysErrno();
    if (code == ENOENT || code == ENOTDIR || code == ELOOP || code == EXDEV)
      return invalidImage(fmt::format("/{} of the layer is no directory, or leads to none", excerpt(directory, 300)));
    return std::move(opened).error().as(Code::StorageFailed);
  }
  if (directories_.size() >= kMostOpen) directories_.clear();
  int fd = opened->get();
  directories_.emplace(directory, std::move(*opened));
  return fd;
}

Result<int> LayerTree::parentOf(const EntryPath& path) {
  if (path.name.empty()) return invalidImage("an entry for the layer's root that is no directory");
  return openDirectory(path.parent, true);
}

// Removes what has the name already.
Status LayerTree::displace(int parent, const EntryPath& path) {
  struct stat there{};
  bool known = ::fstatat(parent, path.name.c_str(), &there, AT_SYMLINK_NOFOLLOW) == 0;
  if (::unlinkat(parent, path.name.c_str(), 0) == 0) {
    // A file that has another name still is there.
    if (known && there.st_nlink < 2) {
      --inodes_;
      if (S_ISREG(there.st_mode)) displacedBytes_ += there.st_size;
    }
    // It may have been a link that open directories were reached through.
    directories_.clear();
    return {};
  }
  if (errno == ENOENT) return {};
  if (errno != EISDIR) return fileError("replace", path, errno);
  USERPOD_TRY(kept, duplicate(parent));
  directories_.clear();
  auto removed = removeTreeAt(kept.get(), path.name);
  if (!removed) return std::move(removed).error().wrap(fmt::format("replace /{} of the layer", path.shown()));
  return {};
}

Status LayerTree::setOwner(int directory, const std::string& name, const EntryPath& path, const EntryOwner& owner) {
  constexpr std::int64_t kLargest = 0xfffffffe;
  bool sane = owner.uid >= 0 && owner.uid <= kLargest && owner.gid >= 0 && owner.gid <= kLargest;
  int code = EINVAL;
  if (sane) {
    if (::fchownat(directory, name.c_str(), static_cast<uid_t>(owner.uid), static_cast<gid_t>(owner.gid),
                   AT_SYMLINK_NOFOLLOW | AT_EMPTY_PATH) == 0)
      return {};
    code = errno;
  }
  if (code != EINVAL) return fileError("set the owner of", path, code);
  if (ignoreChownErrors_) {
    ++squashed_;
    return {};
  }
  return Error(Code::SubIdMissing,
               fmt::format("/{} of the layer belongs to {}:{}, which the node's user namespace does not have: give the "
                           "user more subordinate ids in /etc/subuid and /etc/subgid (usermod --add-subuids and "
                           "--add-subgids) and restart userpod-node.service, or let such files belong to root: "
                           "ignore-chown-errors = true in userpod.toml",
                           path.shown(), owner.uid, owner.gid),
               code);
}

Status LayerTree::setAttributes(int file, const EntryPath& path, const EntryInfo& info) {
  for (const auto& [name, value] : info.attributes) {
    auto rule = attributeRule(name);
    if (rule == AttributeRule::Refuse)
      return invalidImage(
          fmt::format("/{} of the layer carries {}, which images must not", path.shown(), excerpt(name)));
    if (rule == AttributeRule::Skip) continue;
    if (::fsetxattr(file, name.c_str(), value.data(), value.size(), 0) == 0) continue;
    // ext4 says so, too, when all attributes of a file are more than a block.
    bool large = errno == E2BIG || errno == ERANGE || (errno == ENOSPC && value.size() > 1000);
    if (large)
      return Error(Code::StorageFailed,
                   fmt::format("/{} of the layer: the file system does not keep {} bytes of {} beside its other "
                               "attributes",
                               path.shown(), value.size(), excerpt(name)));
    if (errno != EOPNOTSUPP) return fileError("set " + excerpt(name) + " of", path, errno);
    logDebug("/{}: the file system cannot keep {}", path.shown(), name);
  }
  return {};
}

void LayerTree::keepTime(const EntryPath& path, timespec modified) {
  // Far above what honest layers have; an archive may name one directory a million times.
  constexpr std::size_t kMost = 64U << 20;
  if (timesBytes_ > kMost) return;
  timesBytes_ += sizeof(times_[0]) + path.parent.size() + path.name.size();
  times_.emplace_back(path, modified);
}

Status LayerTree::setRoot(const EntryInfo& info) {
  EntryPath root;
  USERPOD_CHECK(setOwner(root_, "", root, info.owner));
  if (::fchmod(root_, info.mode & 07777) < 0) return fileError("set the mode of", root, errno);
  USERPOD_CHECK(setAttributes(root_, root, info));
  if (::fsetxattr(root_, storage::kRootMark, "y", 1, 0) < 0) return fileError("mark", root, errno);
  keepTime(root, info.modified);
  return {};
}

Status LayerTree::markOpaque(int parent, const EntryPath& path) {
  USERPOD_TRY(fd, openAt(parent, path.name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW));
  if (::fsetxattr(fd.get(), storage::kOpaqueMark, "y", 1, 0) == 0) return {};
  if (errno != EPERM && errno != EOPNOTSUPP) return fileError("make opaque", path, errno);
  auto file = openAt(fd.get(), storage::kOpaqueFile, O_WRONLY | O_CREAT | O_NOFOLLOW);
  return file ? Status() : fileError("make opaque", path, file.error().sysErrno());
}

// Before an entry gets the name: takes away the layer's own whiteout of it, where that has a name of its own.
bool LayerTree::uncover(int parent, const std::string& name) {
  return hidesByNames_ && ::unlinkat(parent, (std::string(storage::kHiddenPrefix) + name).c_str(), 0) == 0;
}

Status LayerTree::makeDirectory(const EntryPath& path, const EntryInfo& info) {
  USERPOD_TRY(parent, parentOf(path));
  const char* name = path.name.c_str();
  bool hidden = uncover(parent, path.name);
  bool made = ::mkdirat(parent, name, 0700) == 0;
  if (!made) {
    if (errno != EEXIST) return fileError("make directory", path, errno);
    struct stat there{};
    if (::fstatat(parent, name, &there, AT_SYMLINK_NOFOLLOW) < 0) return fileError("stat", path, errno);
    if (!S_ISDIR(there.st_mode)) {
      USERPOD_CHECK(displace(parent, path));
      USERPOD_TRY(again, parentOf(path));
      parent = again;
      if (::mkdirat(parent, name, 0700) < 0) return fileError("make directory", path, errno);
      made = true;
      hidden = storage::isWhiteout(there);
    }
  }
  // A whiteout and a new directory of one name: nothing of the old one shows through.
  if (hidden) USERPOD_CHECK(markOpaque(parent, path));
  if (made) ++inodes_;
  USERPOD_CHECK(setOwner(parent, path.name, path, info.owner));
  if (::fchmodat(parent, name, info.mode & 07777, 0) < 0) return fileError("set the mode of", path, errno);
  if (!info.attributes.empty()) {
    USERPOD_TRY(fd, openAt(parent, path.name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW));
    USERPOD_CHECK(setAttributes(fd.get(), path, info));
  }
  keepTime(path, info.modified);
  return {};
}

Result<UniqueFd> LayerTree::createFile(const EntryPath& path, mode_t mode) {
  for (int tries = 0;; ++tries) {
    USERPOD_TRY(parent, parentOf(path));
    uncover(parent, path.name);
    int fd = ::openat(parent, path.name.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, mode & 0777);
    if (fd >= 0) {
      ++inodes_;
      return UniqueFd(fd);
    }
    if (errno != EEXIST || tries > 0) return fileError("create", path, errno);
    USERPOD_CHECK(displace(parent, path));
  }
}

Status LayerTree::finishFile(const UniqueFd& file, const EntryPath& path, const EntryInfo& info) {
  // Most files are right as they were made, and each change is a transaction of the file system's journal.
  struct stat made{};
  if (::fstat(file.get(), &made) < 0) return fileError("stat", path, errno);
  // chown first: it clears setuid, setgid and file capabilities.
  mode_t mode = info.mode & 07777;
  if (made.st_uid != info.owner.uid || made.st_gid != info.owner.gid) {
    std::int64_t before = squashed_;
    USERPOD_CHECK(setOwner(file.get(), "", path, info.owner));
    // What ran as somebody else shall not run as root.
    if (squashed_ > before) mode &= 01777;
  }
  if ((made.st_mode & 07777) != mode && ::fchmod(file.get(), mode) < 0)
    return fileError("set the mode of", path, errno);
  USERPOD_CHECK(setAttributes(file.get(), path, info));
  std::array<timespec, 2> times{info.modified, info.modified};
  if (::futimens(file.get(), times.data()) < 0) return fileError("set the time of", path, errno);
  // Begins to write what is worth it, while the rest of the layer is unpacked: the commit of the pull waits for all of
  // it.
  if (made.st_size >= kWorthWriting) (void)::sync_file_range(file.get(), 0, 0, SYNC_FILE_RANGE_WRITE);
  return {};
}

Status LayerTree::makeSymlink(const EntryPath& path, const std::string& target, const EntryInfo& info) {
  for (int tries = 0;; ++tries) {
    USERPOD_TRY(parent, parentOf(path));
    uncover(parent, path.name);
    if (::symlinkat(target.c_str(), parent, path.name.c_str()) == 0) {
      ++inodes_;
      USERPOD_CHECK(setOwner(parent, path.name, path, info.owner));
      std::array<timespec, 2> times{info.modified, info.modified};
      if (::utimensat(parent, path.name.c_str(), times.data(), AT_SYMLINK_NOFOLLOW) < 0)
        return fileError("set the time of", path, errno);
      return {};
    }
    if (errno == ENAMETOOLONG || errno == ENOENT)
      return invalidImage(fmt::format("/{}: a link to nothing sensible", path.shown()));
    if (errno != EEXIST || tries > 0) return fileError("make link", path, errno);
    USERPOD_CHECK(displace(parent, path));
  }
}

Status LayerTree::makeHardLink(const EntryPath& path, const EntryPath& target) {
  for (int tries = 0;; ++tries) {
    USERPOD_TRY(parent, parentOf(path));
    // The second directory must not push the first one out of the cache.
    USERPOD_TRY(kept, duplicate(parent));
    uncover(parent, path.name);
    USERPOD_TRY(source, openDirectory(target.parent, false));
    struct stat from{};
    if (::fstatat(source, target.name.c_str(), &from, AT_SYMLINK_NOFOLLOW) < 0)
      return invalidImage(
          fmt::format("/{} is a hard link to /{}, which is not in the same layer", path.shown(), target.shown()));
    if (S_ISDIR(from.st_mode)) return invalidImage(fmt::format("/{} is a hard link to a directory", path.shown()));
    if (::linkat(source, target.name.c_str(), kept.get(), path.name.c_str(), 0) == 0) return {};
    if (errno != EEXIST || tries > 0) return fileError("make hard link", path, errno);
    struct stat there{};
    if (::fstatat(kept.get(), path.name.c_str(), &there, AT_SYMLINK_NOFOLLOW) == 0 && there.st_dev == from.st_dev &&
        there.st_ino == from.st_ino)
      return {};
    USERPOD_CHECK(displace(kept.get(), path));
  }
}

Status LayerTree::makeFifo(const EntryPath& path, const EntryInfo& info) {
  for (int tries = 0;; ++tries) {
    USERPOD_TRY(parent, parentOf(path));
    uncover(parent, path.name);
    if (::mkfifoat(parent, path.name.c_str(), 0600) == 0) {
      ++inodes_;
      USERPOD_CHECK(setOwner(parent, path.name, path, info.owner));
      if (::fchmodat(parent, path.name.c_str(), info.mode & 07777, 0) < 0)
        return fileError("set the mode of", path, errno);
      return {};
    }
    if (errno != EEXIST || tries > 0) return fileError("make fifo", path, errno);
    USERPOD_CHECK(displace(parent, path));
  }
}

Status LayerTree::makeWhiteout(const EntryPath& path) {
  if (path.name.empty() || path.name == "." || path.name == "..")
    return invalidImage(fmt::format("a whiteout of \"{}\" in /{}", path.name, path.parent));
  USERPOD_TRY(parent, parentOf(path));
  if (::mknodat(parent, path.name.c_str(), S_IFCHR, 0) == 0) {
    ++inodes_;
    return {};
  }
  if (errno == EPERM || errno == EOPNOTSUPP) {
    hidesByNames_ = true;
    auto file = openAt(parent, std::string(storage::kHiddenPrefix) + path.name, O_WRONLY | O_CREAT | O_NOFOLLOW);
    if (!file) return fileError("make whiteout", path, file.error().sysErrno());
    ++inodes_;
    return {};
  }
  if (errno != EEXIST) return fileError("make whiteout", path, errno);
  // The layer has something of that name: a file hides the old one anyway, a directory has to be told to.
  struct stat there{};
  if (::fstatat(parent, path.name.c_str(), &there, AT_SYMLINK_NOFOLLOW) == 0 && S_ISDIR(there.st_mode))
    return markOpaque(parent, path);
  return {};
}

Status LayerTree::makeOpaque(const std::string& directory) {
  EntryPath self;
  if (!directory.empty()) {
    USERPOD_TRY(path, parseEntryPath(directory));
    self = path;
  }
  USERPOD_TRY(fd, openDirectory(directory, true));
  return markOpaque(fd, EntryPath{self.text(), "."});
}

Status LayerTree::finish() {
  for (auto entry = times_.rbegin(); entry != times_.rend(); ++entry) {
    const auto& [path, modified] = *entry;
    std::array<timespec, 2> times{modified, modified};
    if (path.name.empty()) {
      ::futimens(root_, times.data());
      continue;
    }
    // A directory that a later entry replaced has no time to be set.
    auto parent = openDirectory(path.parent, false);
    if (parent) ::utimensat(*parent, path.name.c_str(), times.data(), AT_SYMLINK_NOFOLLOW);
  }
  times_.clear();
  directories_.clear();
  return {};
}

}  // namespace userpod::images

#include "daemon/sys/fd.hpp"

#include <dirent.h>
#include <linux/openat2.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstdio>
#include <memory>
#include <vector>

namespace userpod {

void UniqueFd::reset(int fd) {
  if (fd_ >= 0) ::close(fd_);
  fd_ = fd;
}

Result<Pipe> makePipe(int flags) {
  std::array<int, 2> ends{};
  if (::pipe2(ends.data(), flags | O_CLOEXEC) < 0) return sysError("pipe");
  return Pipe{UniqueFd(ends[0]), UniqueFd(ends[1])};
}

Result<SocketPair> makeSocketPair(int type) {
  std::array<int, 2> ends{};
  if (::socketpair(AF_UNIX, type | SOCK_CLOEXEC, 0, ends.data()) < 0) return sysError("socketpair");
  return SocketPair{UniqueFd(ends[0]), UniqueFd(ends[1])};
}

Result<UniqueFd> openFile(const std::string& path, int flags, mode_t mode) {
  return openAt(AT_FDCWD, path, flags, mode);
}

Result<UniqueFd> openAt(int directory, const std::string& path, int flags, mode_t mode) {
  int fd = ::openat(directory, path.c_str(), flags | O_CLOEXEC, mode);
  if (fd < 0) return sysError("open " + path);
  return UniqueFd(fd);
}

Result<UniqueFd> openResolved(int directory, const std::string& path, int flags, std::uint64_t resolve, mode_t mode) {
  open_how how{};
  how.flags = static_cast<std::uint64_t>(flags) | O_CLOEXEC;
  how.mode = mode;
  how.resolve = resolve;
  for (int tries = 0;; ++tries) {
    long fd = ::syscall(SYS_openat2, directory, path.c_str(), &how, sizeof(how));
    if (fd >= 0) return UniqueFd(static_cast<int>(fd));
    // EAGAIN: a rename somewhere in the system raced with the resolution of "..".
    if (errno != EAGAIN || tries == 100) return sysError("open " + path);
  }
}

Result<UniqueFd> duplicate(int fd) {
  int copy = ::fcntl(fd, F_DUPFD_CLOEXEC, 3);
  if (copy < 0) return sysError("duplicate descriptor");
  return UniqueFd(copy);
}

Result<std::string> readAll(int fd, std::size_t limit) {
  std::string data;
  std::array<char, 16384> buffer{};
  for (;;) {
    ssize_t count = ::read(fd, buffer.data(), buffer.size());
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) return sysError("read");
    if (count == 0) return data;
    if (data.size() + static_cast<std::size_t>(count) > limit)
      return Error(Code::LimitsExceeded, "more than " + std::to_string(limit) + " bytes");
    data.append(buffer.data(), static_cast<std::size_t>(count));
  }
}

Result<std::string> readFile(const std::string& path, std::size_t limit) {
  USERPOD_TRY(fd, openFile(path, O_RDONLY));
  auto data = readAll(fd.get(), limit);
  if (!data) return std::move(data).error().wrap(path);
  return data;
}

Status writeAll(int fd, std::string_view data) {
  while (!data.empty()) {
    ssize_t count = ::write(fd, data.data(), data.size());
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) return sysError("write");
    data.remove_prefix(static_cast<std::size_t>(count));
  }
  return {};
}

Status writeFile(const std::string& path, std::string_view data, mode_t mode) {
  USERPOD_TRY(fd, openFile(path, O_WRONLY | O_CREAT | O_TRUNC, mode));
  if (auto status = writeAll(fd.get(), data); !status) return std::move(status).error().wrap(path);
  return {};
}

Status writeFileAtomic(const std::string& path, std::string_view data, mode_t mode) {
  std::string temporary = path + ".new";
  if (auto status = writeFile(temporary, data, mode); !status) {
    ::unlink(temporary.c_str());
    return status;
  }
  if (::rename(temporary.c_str(), path.c_str()) < 0) return sysError("rename to " + path);
  return {};
}

Status makeDirectories(const std::string& path, mode_t mode) {
  for (std::size_t end = path.find('/', 1);; end = path.find('/', end + 1)) {
    std::string part = path.substr(0, end);
    if (::mkdir(part.c_str(), mode) < 0 && errno != EEXIST) {
      int saved = errno;
      struct stat info{};
      // A read-only or foreign parent that exists answers EROFS or EACCES before EEXIST.
      if (::stat(part.c_str(), &info) < 0 || !S_ISDIR(info.st_mode)) return sysError("make directory " + part, saved);
    }
    if (end == std::string::npos) return {};
  }
}

bool pathExists(const std::string& path) {
  struct stat info{};
  return ::lstat(path.c_str(), &info) == 0;
}

std::vector<std::string> namesIn(const std::string& path) {
  std::vector<std::string> names;
  std::unique_ptr<DIR, int (*)(DIR*)> directory(::opendir(path.c_str()), &::closedir);
  while (const dirent* entry = directory ? ::readdir(directory.get()) : nullptr)
    if (entry->d_name[0] != '.') names.emplace_back(entry->d_name);
  return names;
}

namespace {

constexpr std::size_t kMostOpen = 64;  // directories at once, of a tree that may be of any depth

struct DirectoryCloser {
  void operator()(DIR* directory) const { ::closedir(directory); }
};
struct OpenDirectory {
  std::unique_ptr<DIR, DirectoryCloser> handle;
  std::string name;  // in its parent
  int descriptor() const { return ::dirfd(handle.get()); }
};

// One tree being removed. A directory that lies deeper than descriptors go is moved up to the top and its turn comes
// there: whoever fills the tree, a container or the layer of an image, decides how deep it is.
class Removal {
 public:
  Removal(int base, const std::string& path) : base_(base), path_(path) {}

  Status run(dev_t device, const std::stop_token& stop);

 private:
  Status open(int parent, const std::string& name);
  Status removeEntry(const std::string& name, bool isDirectory);
  Status closeLast();

  const int base_;  // directory that the path begins in
  const std::string& path_;
  dev_t device_ = 0;
  std::vector<OpenDirectory> stack_;
  std::size_t moved_ = 0;
};

Status Removal::open(int parent, const std::string& name) {
  constexpr int kFlags = O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC;
  int fd = ::openat(parent, name.c_str(), kFlags);
  if (fd < 0 && errno == EACCES) {
    // An overlay work directory is mode 000, an image may hold directories its owner cannot read.
    ::fchmodat(parent, name.c_str(), 0700, 0);
    fd = ::openat(parent, name.c_str(), kFlags);
  }
  if (fd < 0) return sysError("open " + name);
  UniqueFd owner(fd);
  struct stat info{};
  if (::fstat(fd, &info) < 0) return sysError("stat " + name);
  if (info.st_dev != device_) return Error(Code::Busy, name + " is a mount point");
  if ((info.st_mode & 0300) != 0300) ::fchmod(fd, 0700);
  DIR* handle = ::fdopendir(fd);
  if (handle == nullptr) return sysError("read directory " + name);
  owner.release();
  stack_.push_back({std::unique_ptr<DIR, DirectoryCloser>(handle), name});
  return {};
}

Status Removal::closeLast() {
  std::string name = std::move(stack_.back().name);
  stack_.pop_back();
  int parent = stack_.empty() ? base_ : stack_.back().descriptor();
  if (::unlinkat(parent, name.c_str(), AT_REMOVEDIR) == 0 || errno == ENOENT) return {};
  // Something was moved there after the last entry was read.
  if (errno == ENOTEMPTY && moved_ > 0) return open(parent, name);
  return sysError("remove directory " + name + " in " + path_);
}

Status Removal::removeEntry(const std::string& name, bool isDirectory) {
  int fd = stack_.back().descriptor();
  if (!isDirectory && ::unlinkat(fd, name.c_str(), 0) == 0) return {};
  if (!isDirectory && errno != EISDIR) return errno == ENOENT ? Status() : sysError("remove " + name + " in " + path_);
  if (stack_.size() < kMostOpen) {
    auto opened = open(fd, name);
    return opened ? Status() : std::move(opened).error().wrap("remove " + path_);
  }
  int top = stack_.front().descriptor();
  for (;;) {
    std::string upper = ".removed-" + std::to_string(moved_++);
    if (::renameat2(fd, name.c_str(), top, upper.c_str(), RENAME_NOREPLACE) == 0) return {};
    if (errno == EEXIST) continue;
    // To change its "..", a directory has to be writable itself.
    if (errno == EACCES && ::fchmodat(fd, name.c_str(), 0700, 0) == 0 &&
        ::renameat2(fd, name.c_str(), top, upper.c_str(), RENAME_NOREPLACE) == 0)
      return {};
    return sysError("remove " + name + " in " + path_);
  }
}

Status Removal::run(dev_t device, const std::stop_token& stop) {
  device_ = device;
  USERPOD_CHECK(open(base_, path_));
  while (!stack_.empty()) {
    if (stop.stop_requested()) return Error(Code::Canceled, "the removal of " + path_ + " was given up");
    const dirent* entry = ::readdir(stack_.back().handle.get());
    if (entry == nullptr) {
      USERPOD_CHECK(closeLast());
      continue;
    }
    std::string name = entry->d_name;
    if (name == "." || name == "..") continue;
    USERPOD_CHECK(removeEntry(name, entry->d_type == DT_DIR));
  }
  return {};
}

}  // namespace

Status removeTreeAt(int directory, const std::string& path, const std::stop_token& stop) {
  struct stat top{};
  if (::fstatat(directory, path.c_str(), &top, AT_SYMLINK_NOFOLLOW) < 0) {
    if (errno == ENOENT) return {};
    return sysError("stat " + path);
  }
  if (!S_ISDIR(top.st_mode)) {
    if (::unlinkat(directory, path.c_str(), 0) < 0 && errno != ENOENT) return sysError("remove " + path);
    return {};
  }
  return Removal(directory, path).run(top.st_dev, stop);
}

Status removeTree(const std::string& path, const std::stop_token& stop) {
  return removeTreeAt(AT_FDCWD, path, stop);
}

}  // namespace userpod

// Owners of file descriptors, and the file helpers that need one. Every descriptor is close-on-exec.
#pragma once

#include <fcntl.h>
#include <sys/types.h>

#include <cstdint>
#include <stop_token>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "daemon/sys/error.hpp"

namespace userpod {

class UniqueFd {
 public:
  UniqueFd() = default;
  explicit UniqueFd(int fd) : fd_(fd) {}
  UniqueFd(UniqueFd&& other) noexcept : fd_(other.release()) {}
  UniqueFd& operator=(UniqueFd&& other) noexcept {
    reset(other.release());
    return *this;
  }
  ~UniqueFd() { reset(); }

  int get() const { return fd_; }
  explicit operator bool() const { return fd_ >= 0; }
  int release() { return std::exchange(fd_, -1); }
  void reset(int fd = -1);

 private:
  int fd_ = -1;
};

struct Pipe {
  UniqueFd read;
  UniqueFd write;
};
Result<Pipe> makePipe(int flags = 0);  // pipe2; O_CLOEXEC is added
struct SocketPair {
  UniqueFd first;
  UniqueFd second;
};
Result<SocketPair> makeSocketPair(int type);  // AF_UNIX; SOCK_CLOEXEC is added

Result<UniqueFd> openFile(const std::string& path, int flags, mode_t mode = 0644);  // O_CLOEXEC is added
Result<UniqueFd> openAt(int directory, const std::string& path, int flags, mode_t mode = 0644);
// openat2: `resolve` as RESOLVE_BENEATH, RESOLVE_IN_ROOT, RESOLVE_NO_SYMLINKS... Paths inside a rootfs use only this.
Result<UniqueFd> openResolved(int directory, const std::string& path, int flags, std::uint64_t resolve,
                              mode_t mode = 0);
Result<UniqueFd> duplicate(int fd);

// Reads to the end; more than `limit` bytes is an error, never a silent cut.
Result<std::string> readAll(int fd, std::size_t limit);
Result<std::string> readFile(const std::string& path, std::size_t limit = 1U << 20);
Status writeAll(int fd, std::string_view data);
// Creates or truncates; not atomic. For kernel files and files nobody reads yet.
Status writeFile(const std::string& path, std::string_view data, mode_t mode = 0644);
// Writes a temporary file beside it and renames: a reader sees the old or the new text, never half.
Status writeFileAtomic(const std::string& path, std::string_view data, mode_t mode = 0644);

Status makeDirectories(const std::string& path, mode_t mode = 0755);
bool pathExists(const std::string& path);
// Of what a directory has, those hidden by a dot left out; none without a directory.
std::vector<std::string> namesIn(const std::string& path);
// Removes a file or a whole tree without following links and without leaving its file system. A missing path is fine.
// Depth does not matter: no recursion, and 64 descriptors at most. Canceled soon after a stop is requested: what is
// left is for a later call.
Status removeTree(const std::string& path, const std::stop_token& stop = {});
// The path begins in the directory.
Status removeTreeAt(int directory, const std::string& path, const std::stop_token& stop = {});

}  // namespace userpod

#include "daemon/stats/tree_scan.hpp"

#include <dirent.h>
#include <fcntl.h>
#include <unistd.h>

#include <cmath>
#include <cstddef>
#include <cstring>

#include "daemon/sys/cpu_time.hpp"

namespace userpod::stats {
namespace {

constexpr std::size_t kMostOpen = 32;
constexpr std::size_t kMostLevels = 50'000;  // deeper ones are not looked into
constexpr std::size_t kMostLinked = 50'000;  // remembered; of more, each name counts for its part
constexpr std::size_t kEntries = 8192;       // bytes read at once
constexpr int kBetweenLooks = 64;            // entries, at the clock
constexpr std::uint64_t kBlock = 512;        // st_blocks are of these, whatever the file system's are
constexpr int kOpenFlags = O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC;

}  // namespace

TreeScan::TreeScan(const std::string& path) {
  UniqueFd top(::open(path.c_str(), kOpenFlags));
  struct stat info{};
  lost_ = !top || ::fstat(top.get(), &info) < 0;
  if (lost_) return;
  device_ = info.st_dev;
  count(info);
  enter(std::move(top));
}

std::uint64_t TreeScan::inodes() const {
  return inodes_ + static_cast<std::uint64_t>(std::llround(parts_));
}

TreeScan::State TreeScan::step(std::chrono::nanoseconds most, const std::function<bool()>& stop) {
  auto end = threadCpuTime() + most;
  do {
    for (int i = 0; i < kBetweenLooks; ++i)
      if (lost_ || !next()) return lost_ ? State::Lost : State::Done;
  } while (!stop() && threadCpuTime() < end);
  return State::Going;
}

bool TreeScan::next() {
  if (levels_.empty()) return false;
  Level& level = levels_.back();
  if (level.at == level.entries.size() && !fill(level)) return leave();
  const char* begin = level.entries.data() + level.at;
  decltype(dirent64::d_reclen) length = 0;
  decltype(dirent64::d_off) offset = 0;
  std::memcpy(&length, begin + offsetof(dirent64, d_reclen), sizeof(length));
  std::memcpy(&offset, begin + offsetof(dirent64, d_off), sizeof(offset));
  level.at += length;
  level.resume = offset;
  // The name stays where it is: entering it only adds a level, and takes the entries of one far above.
  visit(level, begin + offsetof(dirent64, d_name));
  return true;
}

// One that went away meanwhile has no more entries.
bool TreeScan::fill(Level& level) {
  level.entries.resize(kEntries);
  level.at = 0;
  ssize_t size = ::getdents64(level.directory.get(), level.entries.data(), level.entries.size());
  level.entries.resize(size > 0 ? static_cast<std::size_t>(size) : 0);
  return size > 0;
}

void TreeScan::visit(Level& level, const char* name) {
  if (std::strcmp(name, ".") == 0 || std::strcmp(name, "..") == 0) return;
  int parent = level.directory.get();
  struct stat info{};
  if (::fstatat(parent, name, &info, AT_SYMLINK_NOFOLLOW) < 0 || info.st_dev != device_) return;
  count(info);
  if (!S_ISDIR(info.st_mode) || levels_.size() == kMostLevels) return;
  UniqueFd directory(::openat(parent, name, kOpenFlags));
  if (directory) enter(std::move(directory));
}

void TreeScan::count(const struct stat& info) {
  std::uint64_t bytes = static_cast<std::uint64_t>(info.st_blocks) * kBlock;
  if (!S_ISDIR(info.st_mode) && info.st_nlink > 1) {
    if (linked_.contains(info.st_ino)) return;
    if (linked_.size() == kMostLinked) {
      parts_ += 1.0 / static_cast<double>(info.st_nlink);
      bytes_ += bytes / info.st_nlink;
      return;
    }
    linked_.insert(info.st_ino);
  }
  bytes_ += bytes;
  ++inodes_;
}

void TreeScan::enter(UniqueFd directory) {
  if (open_ == kMostOpen) {
    Level& far = levels_[levels_.size() - open_];
    struct stat info{};
    if (::fstat(far.directory.get(), &info) < 0) lost_ = true;
    far.device = info.st_dev;
    far.inode = info.st_ino;
    far.directory.reset();
    far.entries = {};
    far.at = 0;
    --open_;
  }
  levels_.push_back({std::move(directory), {}, 0, 0, 0, 0});
  ++open_;
}

bool TreeScan::leave() {
  UniqueFd below = std::move(levels_.back().directory);
  levels_.pop_back();
  --open_;
  if (levels_.empty() || open_ > 0) return !levels_.empty();
  Level& level = levels_.back();
  level.directory.reset(::openat(below.get(), "..", kOpenFlags));
  struct stat info{};
  // Somebody may have moved the directory below elsewhere: what is above it is not ours then.
  lost_ = !level.directory || ::fstat(level.directory.get(), &info) < 0 || info.st_dev != level.device ||
          info.st_ino != level.inode || ::lseek(level.directory.get(), level.resume, SEEK_SET) < 0;
  ++open_;
  return true;
}

}  // namespace userpod::stats

// What a directory tree takes on disk, as du(1) counts it: each file once, links not followed, one file system. Done
// in steps, so that whoever does it can pause and end. The tree may be hostile, and may change meanwhile.
#pragma once

#include <sys/stat.h>
#include <sys/types.h>

#include <chrono>
#include <functional>
#include <string>
#include <unordered_set>
#include <vector>

#include "daemon/sys/fd.hpp"

namespace userpod::stats {

// Holds at most some 32 descriptors, a quarter of a megabyte of entries, 2 MB that say which files of several names
// were counted (50,000 of them), and 80 bytes for each level of depth (of 50,000: 4 MB).
class TreeScan {
 public:
  explicit TreeScan(const std::string& path);

  enum class State {
    Going,
    Done,
    Lost,  // there is no such directory, or it was moved about while it was read: what was counted is a part of it
  };
  // Goes on for about that much processor time of this thread, or until `stop` says so.
  State step(std::chrono::nanoseconds most, const std::function<bool()>& stop);

  std::uint64_t bytes() const { return bytes_; }
  std::uint64_t inodes() const;

 private:
  // A directory on the way down. The lowest ones keep their descriptors; one that lost its own is opened again by ".."
  // of the one below.
  struct Level {
    UniqueFd directory;
    std::vector<char> entries;  // as read, and not all looked at
    std::size_t at = 0;
    off_t resume = 0;  // behind the last entry that was looked at
    dev_t device = 0;  // from here: of one without a descriptor
    ino_t inode = 0;
  };

  bool next();  // one entry, or the way up; false: over
  bool fill(Level& level);
  void visit(Level& level, const char* name);
  void enter(UniqueFd directory);
  bool leave();
  void count(const struct stat& info);

  std::vector<Level> levels_;
  std::size_t open_ = 0;  // of the last levels
  dev_t device_ = 0;
  bool lost_ = false;
  std::unordered_set<ino_t> linked_;  // files of several names that were counted
  std::uint64_t bytes_ = 0;
  std::uint64_t inodes_ = 0;
  double parts_ = 0;  // of further inodes: of files of several names that were too many to be remembered
};

}  // namespace userpod::stats

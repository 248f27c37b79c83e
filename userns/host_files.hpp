// The host's resolv.conf and hosts, followed into the node.
#pragma once

#include <poll.h>

#include <chrono>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "daemon/sys/fd.hpp"

namespace userpod {

// Follows files of the host by their paths, through links, replacement, deletion and directories that are not there
// yet. Single-threaded, in the holder's poll loop. Without inotify (fs.inotify.max_user_instances is used up) it knows
// what the files were at the start.
class FileWatch {
 public:
  explicit FileWatch(std::vector<std::string> paths);

  // As last read; a file that is gone or unreadable counts as it was, since most programs replace it by way of that.
  const std::string& text(std::size_t number = 0) const { return files_[number].text; }
  int fd() const { return inotify_.get(); }  // -1 without inotify
  int timeout() const;                       // milliseconds until look() has something to do, -1 for none
  // Takes what inotify has; reads the files anew some time after a change, whose end is not known. True: one has
  // another text.
  bool look();

 private:
  using Clock = std::chrono::steady_clock;
  using Names = std::map<int, std::set<std::string>>;  // of a watched directory, those that matter; empty: a file
  struct File {
    std::string path;
    std::string text;
  };
  void watch();
  void watchWay(const std::string& path, Names& names);
  bool read();
  void drain();

  std::vector<File> files_;
  UniqueFd inotify_;
  Names names_;
  std::optional<Clock::time_point> due_;
};

}  // namespace userpod

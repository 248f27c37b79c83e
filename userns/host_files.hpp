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

// Follows one file of the host by its path, through links, replacement, deletion and directories that are not there
// yet. Single-threaded, in the holder's poll loop. Without inotify (fs.inotify.max_user_instances is used up) it knows
// what the file was at the start.
class FileWatch {
 public:
  explicit FileWatch(std::string path);

  // As last read; a file that is gone or unreadable counts as it was, since most programs replace it by way of that.
  const std::string& text() const { return text_; }
  int fd() const { return inotify_.get(); }  // -1 without inotify
  int timeout() const;                       // milliseconds until look() has something to do, -1 for none
  // Takes what inotify has; reads the file anew some time after a change, whose end is not known. True: another text.
  bool look();

 private:
  using Clock = std::chrono::steady_clock;
  void watch();
  bool read();
  void drain();

  std::string path_;
  std::string text_;
  UniqueFd inotify_;
  std::map<int, std::set<std::string>> names_;  // of a watched directory, those that matter; empty: a file
  std::optional<Clock::time_point> due_;
};

}  // namespace userpod

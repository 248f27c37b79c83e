// Connections to monitors whose sessions are over, kept because closing one would end the container's stdin.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <unordered_map>

#include "daemon/sys/executor.hpp"

namespace userpod::core {

// Reads and drops what comes, as a monitor waits for its readers, until the container ends. Not more of them than there
// were sessions at once: an attach takes one from here first. Methods on the core strand.
class Parking {
 public:
  void park(const std::string& containerId, UniqueFd socket);
  // One of the container's, with nothing in it that came earlier; none when there is none. done runs on a thread of its
  // own, or on the caller's.
  void take(const std::string& containerId, std::function<void(UniqueFd)> done);
  void shutdown();  // nothing is taken any more; what is kept is closed by the destructor

 private:
  void drop(int socket);

  // The loop's own.
  struct Parked {
    std::string containerId;
    UniqueFd socket;
  };
  std::unordered_map<int, Parked> parked_;

  std::unique_ptr<EventLoop> loop_;  // since the first one came
};

}  // namespace userpod::core

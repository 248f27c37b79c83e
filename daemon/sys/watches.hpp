// File watches: many on one inotify descriptor, as a user has only some (fs.inotify.max_user_instances is 128).
#pragma once

#include <sys/inotify.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <unordered_map>

#include "daemon/sys/executor.hpp"
#include "daemon/sys/fd.hpp"

namespace userpod {

// All methods and callbacks on the loop's thread. The loop ends before the Watches.
class Watches {
 public:
  using Id = int;
  // The name is that of the directory's entry; empty for a watch of a file, and when events were lost (IN_Q_OVERFLOW):
  // then every callback is called, and looks for itself. A callback may add and remove watches.
  using Callback = std::function<void(const std::string& name)>;

  static Result<std::unique_ptr<Watches>> start(EventLoop& loop);
  // mask: IN_MODIFY, IN_MOVED_TO... One watch a file or directory: a second one is an error (EEXIST).
  Result<Id> add(const std::string& path, std::uint32_t mask, Callback callback);
  void remove(Id id);  // one that is gone, with its file or before, is fine: numbers are not used again

 private:
  Watches() = default;
  void read();
  void deliver(Id id, const std::string& name);

  UniqueFd inotify_;
  std::unordered_map<Id, std::shared_ptr<Callback>> callbacks_;
};

}  // namespace userpod

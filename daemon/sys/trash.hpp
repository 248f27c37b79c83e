// Trees that nobody needs any more, removed by a thread of their own: who throws one away does not wait for its size.
#pragma once

#include <condition_variable>
#include <deque>
#include <mutex>
#include <set>
#include <stop_token>
#include <string>
#include <string_view>
#include <thread>

#include "daemon/sys/error.hpp"

namespace userpod {

// Of one directory. Any thread. What is left at the end, also of the tree that it is at, or after a crash, is taken up
// by the next one.
class Trash {
 public:
  static constexpr std::string_view kPrefix = ".trash-";  // of what is on its way out; nobody else's

  explicit Trash(std::string directory);
  ~Trash() = default;

  // The name in the directory is free at once; a missing one is fine. Failures of the removal itself are logged.
  Status discard(const std::string& name);
  // What is in it and on its way out. A tree that could not be removed is not.
  std::set<std::string> pending();
  // Such a one is tried again.
  void retry(const std::string& name);

 private:
  void run(const std::stop_token& stop);

  const std::string directory_;
  std::mutex mutex_;
  std::condition_variable_any ready_;
  std::deque<std::string> names_;  // guarded by mutex_
  std::string current_;            // guarded by mutex_
  std::jthread remover_;           // last: it uses the rest
};

}  // namespace userpod

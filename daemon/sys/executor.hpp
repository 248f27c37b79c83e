// Threads: an event loop that owns state (the core strand, the exec loop) and a bounded pool for what blocks.
#pragma once

#include <sys/epoll.h>

#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <unordered_map>
#include <vector>

#include "daemon/sys/fd.hpp"

namespace userpod {

// One thread that runs posted tasks, descriptor callbacks and timers, one after the other. All callbacks run on that
// thread. post() may be called from any thread; the other methods only from the loop's own thread.
class EventLoop {
 public:
  using Task = std::function<void()>;
  using Clock = std::chrono::steady_clock;
  using TimerId = std::uint64_t;

  static Result<std::unique_ptr<EventLoop>> start(const std::string& threadName);
  ~EventLoop();  // shutdown()

  void post(Task task);
  bool inLoop() const { return std::this_thread::get_id() == thread_.get_id(); }
  // Watches a descriptor that the caller owns and unwatches before closing. events: EPOLLIN, EPOLLOUT.
  Status watch(int fd, std::uint32_t events, std::function<void(std::uint32_t)> callback);
  void unwatch(int fd);
  TimerId runAt(Clock::time_point when, Task task);
  TimerId runAfter(Clock::duration delay, Task task) { return runAt(Clock::now() + delay, std::move(task)); }
  void cancel(TimerId timer);  // an unknown or past timer is fine
  // Tasks already posted still run, later ones are dropped; returns when the thread has ended. Any thread but its own.
  void shutdown();

 private:
  EventLoop() = default;
  void run();
  void drainTasks();
  int runTimers();  // milliseconds to the next timer, -1 for none

  UniqueFd epoll_;
  UniqueFd wake_;
  std::mutex mutex_;
  std::deque<Task> tasks_;  // guarded by mutex_
  bool stopping_ = false;   // guarded by mutex_
  std::unordered_map<int, std::shared_ptr<std::function<void(std::uint32_t)>>> watches_;
  std::map<std::pair<Clock::time_point, TimerId>, Task> timers_;
  std::unordered_map<TimerId, Clock::time_point> timerTimes_;
  TimerId nextTimer_ = 1;
  std::thread thread_;
};

// Runs the function in a thread made for it, as it changes the thread's namespaces and so cannot give it back.
Status inOwnThread(const std::function<Status()>& function);

// A fixed number of threads for blocking work, first come first served. A task must not call setns or unshare:
// a thread that changes its namespaces is made for that purpose and ends.
class Workers {
 public:
  explicit Workers(unsigned threads, const std::string& name);
  ~Workers();  // shutdown()

  void submit(std::function<void()> task);
  // Tasks already submitted still run, later ones, also of these tasks, are dropped; returns when the threads have
  // ended. Any thread but theirs.
  void shutdown();

 private:
  void run();

  std::mutex mutex_;
  std::condition_variable ready_;
  std::deque<std::function<void()>> tasks_;  // guarded by mutex_
  bool stopping_ = false;                    // guarded by mutex_
  std::vector<std::thread> threads_;
};

}  // namespace userpod

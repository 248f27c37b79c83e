// One of the threads that move bytes. It has joined the node's network namespace, so that its sockets lead to pods;
// those that listen in the host's are handed to it.
#pragma once

#include <array>
#include <atomic>
#include <chrono>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <unordered_map>
#include <vector>

#include "daemon/network/ports/service.hpp"
#include "daemon/sys/error.hpp"
#include "daemon/sys/fd.hpp"

namespace userpod::ports {

class Sources;

// What an epoll instance tells of.
class Handler {
 public:
  virtual ~Handler() = default;
  virtual void onEvents(std::uint32_t events) = 0;
};

// What has more to do than may be done at once: it takes turns with the others.
class Turns {
 public:
  virtual ~Turns() = default;
  virtual bool turn() = 0;  // false: nothing more until events come
  bool queued = false;      // of the worker
};

// How many sockets all workers together may hold.
struct Limits {
  std::atomic<int> connections = 0;  // TCP connections and UDP flows
  int most = 1000;
};

class Worker {
 public:
  using Clock = std::chrono::steady_clock;
  static constexpr std::size_t kBuffer = 64 << 10;

  static Result<std::unique_ptr<Worker>> start(unsigned number, int nodeNamespace, Limits& limits);
  ~Worker();

  // Runs it in the worker's thread and waits for its end. From any other thread.
  void run(const std::function<void()>& task);

  // The rest in the worker's own thread.
  Status watch(int fd, std::uint32_t events, Handler& handler);
  void unwatch(int fd);
  void schedule(Turns& turns);
  // Deletes it when no event of this round can mean it any more.
  void retire(std::unique_ptr<Handler> handler) { retired_.push_back(std::move(handler)); }
  void retire(std::unique_ptr<Turns> turns);
  // Each second; what was given last holds.
  void everySecond(std::function<void()> task) { second_ = std::move(task); }

  // Empty pipes; nothing when all are in use. One that is not empty is not given back.
  std::optional<Pipe> takePipe();
  void givePipe(Pipe pipe);
  void dropPipe(Pipe pipe);
  char* buffer() { return buffer_.data(); }  // for use within one call
  Limits& limits() { return limits_; }

 private:
  explicit Worker(Limits& limits) : limits_(limits) {}
  Status join(int nodeNamespace);
  void loop();
  int timeout();
  void runTasks();
  void takeTurns();

  Limits& limits_;
  UniqueFd epoll_;
  UniqueFd wake_;
  std::mutex mutex_;
  std::deque<std::function<void()>> tasks_;  // guarded by mutex_
  bool stopping_ = false;                    // guarded by mutex_
  std::deque<Turns*> turns_;
  std::vector<std::unique_ptr<Handler>> retired_;
  std::vector<std::unique_ptr<Turns>> retiredTurns_;
  std::vector<Pipe> pipes_;
  unsigned pipesOut_ = 0;
  std::function<void()> second_;
  Clock::time_point nextSecond_ = Clock::now();
  std::array<char, kBuffer> buffer_{};
  std::thread thread_;
};

}  // namespace userpod::ports

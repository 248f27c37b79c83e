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
#include <set>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "daemon/network/ports/service.hpp"
#include "daemon/sys/error.hpp"
#include "daemon/sys/fd.hpp"

namespace userpod::ports {

class Datagrams;

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

// Pairs of a client and a target, each of one UDP flow.
class Claims {
 public:
  bool take(const Endpoint& client, const Endpoint& target) {
    std::lock_guard lock(mutex_);
    return all_.emplace(client, target).second;
  }
  void giveBack(const Endpoint& client, const Endpoint& target) {
    std::lock_guard lock(mutex_);
    all_.erase({client, target});
  }

 private:
  std::mutex mutex_;
  std::set<std::pair<Endpoint, Endpoint>> all_;  // guarded by mutex_
};

// What all workers have in common.
struct Shared {
  std::atomic<int> connections = 0;  // TCP connections and UDP flows that are open
  int most = 1000;                   // of them
  Claims claims;
};

class Worker {
 public:
  using Clock = std::chrono::steady_clock;
  static constexpr std::size_t kBuffer = 64 << 10;

  static Result<std::unique_ptr<Worker>> start(unsigned number, int nodeNamespace, Shared& shared);
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
  Datagrams& datagrams();                    // the same
  Shared& shared() { return shared_; }

 private:
  explicit Worker(Shared& shared);
  Status join(int nodeNamespace);
  void loop();
  int timeout();
  void runTasks();
  void deleteRetired();
  void takeTurns();

  Shared& shared_;
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
  std::unique_ptr<Datagrams> datagrams_;  // from the first use on
  std::thread thread_;
};

}  // namespace userpod::ports

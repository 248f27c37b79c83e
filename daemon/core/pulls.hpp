// Pulls under way: who asks for the same image in the same way shares one, and each may leave it at any time.
#pragma once

#include <atomic>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <stop_token>
#include <string>

#include "daemon/images/images.hpp"
#include "daemon/sys/executor.hpp"

namespace userpod::core {

// Everything happens on the strand but the pulls themselves, which have threads of their own: more than those wait.
class Pulls {
 public:
  using Done = std::function<void(Result<std::string>)>;  // image id

  // Both outlive it. `arrived` is called on the strand before anybody is answered.
  Pulls(EventLoop& strand, images::Images& images, std::function<void(const std::string& id)> arrived);
  // Ends all that is under way, without an answer. The strand runs no task any more.
  ~Pulls();

  // On the strand. `done` is called once, on the strand: soon after the request's stop too, whether the pull has begun
  // or not. Who leaves others to it is told Canceled; the last one ends it, and is told how: what is being committed is
  // committed. request.progress is called on the strand.
  void start(images::PullRequest request, Done done);

 private:
  using Cancelled = std::stop_callback<std::function<void()>>;
  struct Waiter {
    Done done;
    std::function<void(const images::PullProgress&)> progress;
    std::unique_ptr<Cancelled> cancelled;
  };
  struct Operation {
    std::string key;
    std::string reference;
    std::stop_source stop;
    std::atomic<bool> begun{false};
    std::optional<images::PullProgress> progress;  // what was told last
    std::map<std::uint64_t, Waiter> waiters;
  };
  using OperationPointer = std::shared_ptr<Operation>;

  void begin(const OperationPointer& operation, images::PullRequest request);
  void leave(const OperationPointer& operation, std::uint64_t waiter);
  void finish(const OperationPointer& operation, const Result<ImageRecord>& pulled);
  void forget(const OperationPointer& operation);

  EventLoop& strand_;
  images::Images& images_;
  const std::function<void(const std::string& id)> arrived_;
  std::map<std::string, OperationPointer> operations_;
  std::uint64_t nextWaiter_ = 0;
  std::unique_ptr<Workers> threads_;
};

}  // namespace userpod::core

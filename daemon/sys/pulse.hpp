// Whether everything still moves that clients may wait for: the watchdog is fed by it.
#pragma once

#include <atomic>
#include <chrono>
#include <functional>
#include <memory>
#include <string>
#include <vector>

namespace userpod {

// One thread; answers come from any.
class Pulse {
 public:
  using Clock = std::chrono::steady_clock;
  using Ask = std::function<void(std::function<void()> answer)>;
  enum class Look { Nothing, Beat, Silent };

  // Of the time between two beats. Parts that are silent then are looked at more often: up to a second apart.
  explicit Pulse(Clock::duration pause) : pause_(pause) {}
  // A part that answers when it is alive, once for each time it is asked. It counts as alive, too, as long as it is
  // `busy` with what it cannot interrupt and what ends by itself.
  void add(std::string name, Ask ask, std::function<bool()> busy = nullptr);
  // Beat: the pause is over and all parts have answered since they were last asked; now they are asked again. The first
  // look is one. Silent: it is over and some have not, told once in each pause. Nothing before, however often it is
  // called.
  Look look(Clock::time_point now);
  // When the next look is due.
  Clock::time_point next() const { return next_; }
  // Those that have not answered.
  std::string silent() const;

 private:
  struct Part {
    std::string name;
    Ask ask;
    std::function<bool()> busy;
    std::shared_ptr<std::atomic<bool>> waiting;
  };
  std::vector<Part> parts_;
  Clock::duration pause_;
  Clock::time_point next_{};
  Clock::time_point complaint_{};  // not before
};

}  // namespace userpod

// How fast something goes, seen over the last two seconds.
#pragma once

#include <chrono>
#include <cstdint>
#include <deque>

namespace userpod {

// One thread. Times must not go back.
class RateWindow {
 public:
  using Clock = std::chrono::steady_clock;
  static constexpr std::chrono::milliseconds kLength{2000};
  static constexpr std::chrono::milliseconds kLeast{200};  // a shorter look tells nothing

  // So much is done in all at that time. Less than before: it began anew.
  void add(Clock::time_point at, std::uint64_t done);
  // Units a second; 0: not known yet, or nothing moved.
  std::uint64_t rate(Clock::time_point now);

 private:
  struct Sample {
    Clock::time_point at;
    std::uint64_t done;
  };
  std::deque<Sample> samples_;  // from the newest that is older than the window on
};

}  // namespace userpod

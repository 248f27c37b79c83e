// How much processor time is used of late: from samples that are taken whenever somebody asks, none in between.
#pragma once

#include <chrono>
#include <mutex>
#include <optional>
#include <string>
#include <unordered_map>

#include "daemon/stats/figures.hpp"

namespace userpod::stats {

// Any thread.
class CpuRates {
 public:
  using Clock = std::chrono::steady_clock;

  // Takes a sample (`usage` in nanoseconds) and returns nanoseconds a second since the last one that is half a second
  // old or older. Before there is one, since the start of the container or pod, which was `age` ago by the clock on the
  // wall. Absent: that is too short ago, or it cannot be true, as that clock was set.
  Figure sample(const std::string& id, std::uint64_t usage, Clock::time_point at, std::chrono::nanoseconds age);
  void forget(const std::string& id);

 private:
  struct Sample {
    Clock::time_point at;
    std::uint64_t usage = 0;
  };
  struct Samples {
    std::optional<Sample> base;  // what the next is compared with
    Sample latest;               // the next base, once it is old enough
  };

  std::mutex mutex_;
  std::unordered_map<std::string, Samples> samples_;  // guarded by mutex_
};

}  // namespace userpod::stats

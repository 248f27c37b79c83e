#include "daemon/stats/cpu_rate.hpp"

#include <unistd.h>

#include <utility>

namespace userpod::stats {
namespace {

constexpr std::chrono::milliseconds kShortest{500};

}  // namespace

Figure CpuRates::sample(const std::string& id, std::uint64_t usage, Clock::time_point at,
                        std::chrono::nanoseconds age) {
  std::lock_guard lock(mutex_);
  auto [known, added] = samples_.try_emplace(id, Samples{std::nullopt, {at, usage}});
  Samples& samples = known->second;
  bool sinceStart = false;
  bool late = !added && at < samples.latest.at;            // another thread was faster
  if (added || (!late && usage < samples.latest.usage)) {  // less than before: another cgroup of that name
    samples = {std::nullopt, {at, usage}};
    // The steady clock began with the machine: an older start would be nonsense.
    sinceStart = added && age >= kShortest && age <= at.time_since_epoch();
    if (sinceStart) samples.base = Sample{at - age, 0};
  } else if (!late && at - samples.latest.at >= kShortest) {
    samples.base = std::exchange(samples.latest, Sample{at, usage});
  }
  if (!samples.base || at - samples.base->at < kShortest || usage < samples.base->usage) return std::nullopt;
  double seconds = std::chrono::duration<double>(at - samples.base->at).count();
  double rate = static_cast<double>(usage - samples.base->usage) / seconds;
  constexpr double kNanosOfSecond = 1e9;
  if (sinceStart && rate > kNanosOfSecond * static_cast<double>(::sysconf(_SC_NPROCESSORS_CONF))) {
    samples.base.reset();
    return std::nullopt;
  }
  return static_cast<std::uint64_t>(rate);
}

void CpuRates::forget(const std::string& id) {
  std::lock_guard lock(mutex_);
  samples_.erase(id);
}

}  // namespace userpod::stats

#include "daemon/stats/cpu_rate.hpp"

#include <unistd.h>

#include <algorithm>
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
  static const double most = 1e9 * static_cast<double>(::sysconf(_SC_NPROCESSORS_CONF));
  double seconds = std::chrono::duration<double>(at - samples.base->at).count();
  double rate = static_cast<double>(usage - samples.base->usage) / seconds;
  // Somewhat more than all processors is what was used before the start, to make the container; much more is that
  // clock.
  if (sinceStart && rate > 2 * most) {
    samples.base.reset();
    return std::nullopt;
  }
  return static_cast<std::uint64_t>(std::min(rate, most));
}

void CpuRates::forget(const std::string& id) {
  std::lock_guard lock(mutex_);
  samples_.erase(id);
}

}  // namespace userpod::stats

#include "daemon/sys/rate.hpp"

namespace userpod {

void RateWindow::add(Clock::time_point at, std::uint64_t done) {
  if (!samples_.empty() && done < samples_.back().done) samples_.clear();
  samples_.push_back({at, done});
}

std::uint64_t RateWindow::rate(Clock::time_point now) {
  while (samples_.size() > 1 && now - samples_[1].at >= kLength) samples_.pop_front();
  if (samples_.empty() || now - samples_.front().at < kLeast) return 0;
  // What came before the window's beginning counts in part only by its time: the look is at least as long as the
  // window.
  double seconds = std::chrono::duration<double>(now - samples_.front().at).count();
  return static_cast<std::uint64_t>(static_cast<double>(samples_.back().done - samples_.front().done) / seconds);
}

}  // namespace userpod

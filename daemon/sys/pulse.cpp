#include "daemon/sys/pulse.hpp"

#include <algorithm>

namespace userpod {
namespace {

// Of a pause: the answer that comes last still counts if it comes this part of a pause before the end.
constexpr int kSlices = 10;

}  // namespace

void Pulse::add(std::string name, Ask ask, std::function<bool()> busy) {
  parts_.push_back({std::move(name), std::move(ask), std::move(busy), std::make_shared<std::atomic<bool>>(false)});
}

std::string Pulse::silent() const {
  std::string names;
  for (const auto& part : parts_)
    if (*part.waiting && !(part.busy && part.busy())) names += (names.empty() ? "" : ", ") + part.name;
  return names;
}

Pulse::Look Pulse::look(Clock::time_point now) {
  if (now < next_) return Look::Nothing;
  if (!silent().empty()) {
    next_ = now + std::min<Clock::duration>(pause_ / kSlices, std::chrono::seconds(1));
    if (now < complaint_) return Look::Nothing;
    complaint_ = now + pause_;
    return Look::Silent;
  }
  next_ = complaint_ = now + pause_;
  for (auto& part : parts_) {
    if (*part.waiting) continue;  // busy, with the question before it
    // Of its own for each question: a late second answer to an earlier one is none to this.
    part.waiting = std::make_shared<std::atomic<bool>>(true);
    part.ask([waiting = part.waiting] { *waiting = false; });
  }
  return Look::Beat;
}

}  // namespace userpod

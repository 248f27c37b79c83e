#include "daemon/sys/pulse.hpp"

namespace userpod {

std::string Pulse::silent() const {
  std::string names;
  for (const auto& part : parts_)
    if (part.waiting && *part.waiting) names += (names.empty() ? "" : ", ") + part.name;
  return names;
}

bool Pulse::beat() {
  if (!silent().empty()) return false;
  for (auto& part : parts_) {
    // Of its own for each question: a late second answer to an earlier one is none to this.
    part.waiting = std::make_shared<std::atomic<bool>>(true);
    part.ask([waiting = part.waiting] { *waiting = false; });
  }
  return true;
}

}  // namespace userpod

// Conditions that tell of containers and pods still listed: what befell them stays named until they are removed.
#include <fmt/core.h>

#include <algorithm>

#include "daemon/core/core_impl.hpp"

namespace userpod::core {
namespace {

constexpr std::size_t kNamed = 8;

// "3 containers: ID, ID, ID"
std::string counted(const std::vector<std::string>& ids, std::string_view what) {
  std::string text = fmt::format("{} {}{}: ", ids.size(), what, ids.size() == 1 ? "" : "s");
  for (std::size_t i = 0; i < std::min(ids.size(), kNamed); ++i) text += (i > 0 ? ", " : "") + ids[i];
  if (ids.size() > kNamed) text += fmt::format(" and {} more", ids.size() - kNamed);
  return text;
}

}  // namespace

Condition CoreImpl::containersCondition(const char* type, const char* reason, const char* what) const {
  std::vector<std::string> lost;
  for (const auto& [id, container] : containers_)
    if (container->record->reason == reason) lost.push_back(id);
  if (lost.empty()) return {type, true, "", ""};
  return {type, false, reason, counted(lost, "container") + " ended, as " + what};
}

Condition CoreImpl::nodeCondition() const {
  std::vector<std::string> ended;
  for (const auto& [id, pod] : pods_)
    if (pod->record->endedWithNode) ended.push_back(id);
  if (ended.empty()) return {"NodeIntact", true, "", ""};
  return {"NodeIntact", false, "NodeRestarted", counted(ended, "pod") + " ended with an earlier node"};
}

}  // namespace userpod::core

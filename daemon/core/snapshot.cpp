#include <fmt/core.h>

#include <algorithm>

#include "daemon/core/core.hpp"

namespace userpod::core {
namespace {

template <typename Record>
Result<std::shared_ptr<const Record>> findRecord(const std::vector<std::shared_ptr<const Record>>& list,
                                                 const std::string& key, Code missing, std::string_view what) {
  if (key.empty()) return Error(Code::InvalidArgument, fmt::format("{} id is empty", what));
  auto less = [](const auto& record, const std::string& id) { return record->id < id; };
  auto found = std::lower_bound(list.begin(), list.end(), key, less);
  if (found == list.end() || !(*found)->id.starts_with(key))
    return Error(missing, fmt::format("no {} with id {}", what, key.substr(0, 64)));
  auto next = std::next(found);
  if ((*found)->id != key && next != list.end() && (*next)->id.starts_with(key))
    return Error(Code::InvalidArgument,
                 fmt::format("{} id {} is the beginning of several; give more of it", what, key));
  return *found;
}

}  // namespace

Result<std::shared_ptr<const PodRecord>> Snapshot::pod(const std::string& key) const {
  return findRecord(pods, key, Code::NoSuchPod, "pod");
}

Result<std::shared_ptr<const ContainerRecord>> Snapshot::container(const std::string& key) const {
  return findRecord(containers, key, Code::NoSuchContainer, "container");
}

}  // namespace userpod::core

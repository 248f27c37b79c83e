#include "daemon/images/pinned.hpp"

#include <algorithm>
#include <string_view>

namespace userpod::images {

namespace {

constexpr std::string_view kDigestPrefix = "sha256:";

bool fits(std::string_view pattern, std::string_view name) {
  if (!pattern.ends_with('*')) return pattern == name;
  pattern.remove_suffix(1);
  if (!pattern.starts_with('*')) return name.starts_with(pattern);
  pattern.remove_prefix(1);
  return name.find(pattern) != std::string_view::npos;
}

bool fitsId(std::string_view pattern, std::string_view id) {
  // Globs are of names: "sha*" would pin every image there is.
  if (pattern == id) return true;
  return id.starts_with(kDigestPrefix) && pattern == id.substr(kDigestPrefix.size());
}

}  // namespace

bool isPinned(const std::vector<std::string>& patterns, const ImageRecord& image) {
  return std::any_of(patterns.begin(), patterns.end(), [&](const std::string& pattern) {
    auto named = [&](const std::string& name) { return fits(pattern, name); };
    return fitsId(pattern, image.id) || std::any_of(image.repoTags.begin(), image.repoTags.end(), named) ||
           std::any_of(image.repoDigests.begin(), image.repoDigests.end(), named);
  });
}

}  // namespace userpod::images

#include "daemon/cri/fields.hpp"

#include <fmt/core.h>

#include <algorithm>
#include <limits>

#include "daemon/sys/util.hpp"

namespace userpod::cri {
namespace {

constexpr std::size_t kIdLength = 64;
constexpr std::size_t kNameLimit = 253;  // of a Kubernetes object
constexpr std::size_t kPathLimit = 4095;
constexpr std::size_t kLabelLimit = 4096;
constexpr std::size_t kShown = 128;  // of a wrong value in a message

constexpr std::size_t kLabelsLimit = 1 << 20;  // of one object: a list of all has to fit into a message

bool isControl(char c) {
  return static_cast<unsigned char>(c) < 0x20 || c == 0x7f;
}

std::string inQuotes(std::string_view value) {
  return fmt::format("\"{}\"", excerpt(value, kShown));
}

}  // namespace

Error invalidField(std::string_view field, std::string_view problem) {
  return Error(Code::InvalidArgument, fmt::format("{} {}", field, problem));
}

Error unsupportedField(std::string_view field, std::string_view problem) {
  return Error(Code::NotSupported, fmt::format("{} {}", field, problem));
}

Status checkId(std::string_view field, std::string_view id) {
  if (id.empty()) return invalidField(field, "is empty; give an id or the beginning of one");
  if (id.size() > kIdLength)
    return invalidField(field, fmt::format("has {} bytes; an id has {}", id.size(), kIdLength));
  return {};
}

Status checkName(std::string_view field, std::string_view name) {
  if (name.empty()) return invalidField(field, "is empty; it is required");
  if (name.size() > kNameLimit)
    return invalidField(field, fmt::format("has {} bytes; at most {} are allowed", name.size(), kNameLimit));
  if (std::any_of(name.begin(), name.end(), [](char c) { return isControl(c) || c == '/'; }))
    return invalidField(field, fmt::format("is {}; a slash or control character is not allowed in it", inQuotes(name)));
  return {};
}

Status checkText(std::string_view field, std::string_view text, std::size_t limit) {
  if (text.find('\0') != std::string_view::npos) return invalidField(field, "contains a NUL byte");
  if (text.size() > limit)
    return invalidField(field, fmt::format("has {} bytes; at most {} are allowed", text.size(), limit));
  return {};
}

Status checkWord(std::string_view field, std::string_view word) {
  if (word.empty()) return invalidField(field, "has an empty entry");
  if (word.size() > kNameLimit + 2 ||
      std::any_of(word.begin(), word.end(), [](char c) { return isControl(c) || c == ' '; }))
    return invalidField(field, fmt::format("has the entry {}; give one word without white space", inQuotes(word)));
  return {};
}

Status checkAbsolute(std::string_view field, std::string_view path) {
  if (path.empty()) return invalidField(field, "is empty; give an absolute path");
  if (path.front() != '/') return invalidField(field, fmt::format("is {}; give an absolute path", inQuotes(path)));
  return checkText(field, path, kPathLimit);
}

Status checkPlace(std::string_view field, std::string_view path) {
  USERPOD_CHECK(checkAbsolute(field, path));
  auto parts = split(path, '/');
  if (std::find(parts.begin(), parts.end(), "..") == parts.end()) return {};
  return invalidField(field, fmt::format("is {}; \"..\" is not allowed in it", inQuotes(path)));
}

Status checkBelow(std::string_view field, std::string_view path) {
  if (path.empty() || path.front() == '/')
    return invalidField(field, fmt::format("is {}; give a relative path", inQuotes(path)));
  auto parts = split(path, '/');
  if (std::find(parts.begin(), parts.end(), "..") != parts.end())
    return invalidField(field, fmt::format("is {}; \"..\" is not allowed in it", inQuotes(path)));
  return checkText(field, path, kPathLimit);
}

Status checkRange(std::string_view field, std::int64_t value, std::int64_t least, std::int64_t most) {
  if (value >= least && value <= most) return {};
  if (most == std::numeric_limits<std::int64_t>::max())
    return invalidField(field, fmt::format("is {}; give at least {}", value, least));
  return invalidField(field, fmt::format("is {}; give {} to {}", value, least, most));
}

Status checkUserId(std::string_view field, std::int64_t id) {
  return checkRange(field, id, 0, 0xFFFFFFFELL);
}

Status checkUserIds(std::string_view field, const std::vector<std::int64_t>& ids) {
  constexpr std::size_t kGroupsMax = 65536;  // NGROUPS_MAX of the kernel
  if (ids.size() > kGroupsMax)
    return invalidField(field, fmt::format("has {} entries; at most {}", ids.size(), kGroupsMax));
  for (auto id : ids) USERPOD_CHECK(checkUserId(field, id));
  return {};
}

std::string entryOf(std::string_view field, std::string_view key) {
  return fmt::format("{}[{}]", field, excerpt(key, kShown));
}

Status checkLabels(std::string_view field, const StringMap& labels) {
  for (const auto& [key, value] : labels)
    if (key.size() + value.size() > kLabelLimit)
      return invalidField(entryOf(field, key), fmt::format("has {} bytes in key and value; at most {} are allowed",
                                                           key.size() + value.size(), kLabelLimit));
  return checkAnnotations(field, labels);
}

Status checkAnnotations(std::string_view field, const StringMap& annotations) {
  std::size_t bytes = 0;
  for (const auto& [key, value] : annotations) bytes += key.size() + value.size();
  if (bytes <= kLabelsLimit) return {};
  return invalidField(field, fmt::format("has {} bytes; at most {} are allowed", bytes, kLabelsLimit));
}

}  // namespace userpod::cri

#include "daemon/network/cni/json.hpp"

#include <fmt/core.h>

#include <algorithm>

#include "daemon/sys/util.hpp"

namespace userpod::network::cni {
namespace {

std::string_view typeName(Json::value_t type) {
  return type == Json::value_t::array ? "a list" : "an object";
}

}  // namespace

Result<Json> parseObject(std::string_view text, const JsonLimits& limits) {
  if (text.size() > limits.bytes)
    return Error(Code::ConfigInvalid, fmt::format("is longer than {} bytes", limits.bytes));
  bool deep = false;
  auto watchDepth = [&](int depth, Json::parse_event_t, Json&) {
    deep |= depth > limits.nesting;
    return depth <= limits.nesting;
  };
  try {
    auto value = Json::parse(text, watchDepth);
    if (deep) return Error(Code::ConfigInvalid, fmt::format("is nested deeper than {} levels", limits.nesting));
    if (!value.is_object()) return Error(Code::ConfigInvalid, "is not a JSON object");
    return value;
  } catch (const Json::exception& error) {
    std::string_view what = error.what();  // "[json.exception.parse_error.101] parse error at line 1, column 2: ..."
    what.remove_prefix(std::min(what.size(), what.find(']') + 2));
    return Error(Code::ConfigInvalid, "is not JSON: " + excerpt(what, 300));
  }
}

std::string keyOf(const std::string& place, std::string_view key) {
  return place.empty() ? std::string(key) : fmt::format("{}.{}", place, key);
}

Error wrongKey(const std::string& place, std::string_view key, std::string_view why) {
  return {Code::ConfigInvalid, fmt::format("\"{}\" {}", keyOf(place, key), why)};
}

const Json& memberOf(const Json& object, const char* key) {
  static const Json none;
  auto found = object.find(key);
  return found == object.end() ? none : *found;
}

Result<std::string> textOf(const Json& object, const char* key, const std::string& place) {
  const auto& value = memberOf(object, key);
  if (value.is_null()) return std::string();
  if (!value.is_string()) return wrongKey(place, key, "must be a string");
  return value.get<std::string>();
}

Result<bool> flagOf(const Json& object, const char* key, const std::string& place) {
  const auto& value = memberOf(object, key);
  if (value.is_null()) return false;
  if (value.is_boolean()) return value.get<bool>();
  if (value == "true" || value == "false") return value == "true";
  return wrongKey(place, key, "must be true or false");
}

Result<std::vector<std::string>> textsOf(const Json& object, const char* key, const std::string& place) {
  USERPOD_TRY(list, containerOf(object, key, place, Json::value_t::array));
  std::vector<std::string> texts;
  for (const auto& item : *list) {
    if (!item.is_string()) return wrongKey(place, key, "must be a list of strings");
    texts.push_back(item.get<std::string>());
  }
  return texts;
}

Result<const Json*> containerOf(const Json& object, const char* key, const std::string& place, Json::value_t type) {
  const auto& value = memberOf(object, key);
  if (!value.is_null() && value.type() != type) return wrongKey(place, key, fmt::format("must be {}", typeName(type)));
  return &value;
}

}  // namespace userpod::network::cni

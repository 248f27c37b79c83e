#include "daemon/images/json_document.hpp"

#include <fmt/core.h>

#include "daemon/images/invalid.hpp"

namespace userpod::images {

namespace {

using nlohmann::json;

constexpr std::size_t kDeepest = 64;
constexpr std::size_t kMostValues = 200'000;

}  // namespace

// Nesting is limited before the parser builds a tree: freeing a deep one recurses on the stack. A NUL byte, which JSON
// can spell, is in no honest text, and would cut it short wherever it goes on as a C string.
Result<json> parseObject(std::string_view document, std::string_view what) {
  std::size_t depth = 0;
  std::size_t values = 0;
  bool inString = false;
  for (std::size_t at = 0; at < document.size(); ++at) {
    char c = document[at];
    if (inString) {
      if (c == '\\' && document.substr(at + 1, 5) == "u0000")
        return invalidImage(fmt::format("{}: a text with a NUL byte", what));
      if (c == '\\') ++at;
      if (c == '"') inString = false;
    } else if (c == '"') {
      inString = true;
    } else if (c == ',' || c == '{' || c == '[') {
      // Each is tens of bytes in memory, whatever it is in the text.
      if (++values > kMostValues) return invalidImage(fmt::format("{}: more than {} values", what, kMostValues));
      if (c == ',') continue;
      if (++depth > kDeepest) return invalidImage(fmt::format("{}: nested too deeply", what));
    } else if (c == '}' || c == ']') {
      if (depth > 0) --depth;
    }
  }
  json value = json::parse(document, nullptr, false);
  if (!value.is_object()) return invalidImage(fmt::format("{}: not a JSON object in UTF-8", what));
  return value;
}

std::string textOf(const json& object, const char* key) {
  auto found = object.find(key);
  return found != object.end() && found->is_string() ? found->get<std::string>() : std::string();
}

StringMap mapOf(const json& object, const char* key) {
  StringMap map;
  auto found = object.find(key);
  if (found == object.end() || !found->is_object()) return map;
  for (const auto& [name, value] : found->items())
    if (value.is_string()) map.emplace(name, value.get<std::string>());
  return map;
}

Result<std::vector<std::string>> listOf(const json& object, const char* key) {
  std::vector<std::string> list;
  auto found = object.find(key);
  if (found == object.end() || found->is_null()) return list;
  if (!found->is_array()) return invalidImage(fmt::format("image config: {} is not a list", key));
  for (const auto& value : *found) {
    if (!value.is_string()) return invalidImage(fmt::format("image config: {} holds something that is no text", key));
    list.push_back(value.get<std::string>());
  }
  return list;
}

}  // namespace userpod::images

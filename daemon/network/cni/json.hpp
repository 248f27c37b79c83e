// JSON that anybody may have written: configuration files, what plugins print, the cache. Pure; any thread.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "daemon/sys/error.hpp"

namespace userpod::network::cni {

using Json = nlohmann::json;

struct JsonLimits {
  std::size_t bytes = 1 << 20;
  int nesting = 64;  // the library writes values by recursion
};
inline constexpr JsonLimits kForeignJson;                                  // of a file or of what a plugin prints
inline constexpr JsonLimits kOwnJson = {.bytes = 8 << 20, .nesting = 80};  // of what this runtime has made of them

// A document whose outermost value is an object. ConfigInvalid says what is wrong, with line and column where it is no
// JSON.
Result<Json> parseObject(std::string_view text, const JsonLimits& limits = kForeignJson);

// Members of an object. An absent one and null are the same: null, "", false, nothing. A value of another type is
// ConfigInvalid and named by `place` and key, place being "" or the object's, as in "plugins[1]".
const Json& memberOf(const Json& object, const char* key);
std::string keyOf(const std::string& place, std::string_view key);
Result<std::string> textOf(const Json& object, const char* key, const std::string& place);
// Also the texts "true" and "false", as libcni takes them.
Result<bool> flagOf(const Json& object, const char* key, const std::string& place);
Result<std::vector<std::string>> textsOf(const Json& object, const char* key, const std::string& place);
// An array or an object, as `type` says; null when absent.
Result<const Json*> containerOf(const Json& object, const char* key, const std::string& place, Json::value_t type);

Error wrongKey(const std::string& place, std::string_view key, std::string_view why);

}  // namespace userpod::network::cni

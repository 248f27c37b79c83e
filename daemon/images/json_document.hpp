// Reading the JSON documents of images, which others wrote. Pure functions.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "daemon/store/model.hpp"
#include "daemon/sys/error.hpp"

namespace userpod::images {

// An object in UTF-8, nested at most 64 deep, without NUL bytes; `what` names it in the error (ImageInvalid).
Result<nlohmann::json> parseObject(std::string_view document, std::string_view what);

// Empty when it is missing or of another type.
std::string textOf(const nlohmann::json& object, const char* key);
StringMap mapOf(const nlohmann::json& object, const char* key);
// A list of texts; missing or null: empty; anything else is ImageInvalid.
Result<std::vector<std::string>> listOf(const nlohmann::json& object, const char* key);

}  // namespace userpod::images

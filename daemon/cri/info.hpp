// JSON in the `info` maps of verbose answers.
#pragma once

#include <nlohmann/json.hpp>
#include <string>

namespace userpod::cri {

// JSON from an image or from disk. Null when it is none; what nests deeper than 64 levels is left out, for printing it
// again recurses.
nlohmann::json parseForInfo(const std::string& text);
// One line; bytes that are not UTF-8 are replaced.
std::string printInfo(const nlohmann::json& info);

}  // namespace userpod::cri

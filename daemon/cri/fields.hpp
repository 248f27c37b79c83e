// Checks of request fields. Each error is InvalidArgument (or NotSupported), names the field as the request spells it
// and says what would be right.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "daemon/store/model.hpp"
#include "daemon/sys/error.hpp"

namespace userpod::cri {

Error invalidField(std::string_view field, std::string_view problem);
Error unsupportedField(std::string_view field, std::string_view problem);

// An object id or a prefix of one: 1 to 64 bytes.
Status checkId(std::string_view field, std::string_view id);
// A name that becomes part of keys and file names: 1 to 253 bytes, no '/', no control characters.
Status checkName(std::string_view field, std::string_view name);
// Any text for the kernel: no NUL, at most `limit` bytes.
Status checkText(std::string_view field, std::string_view text, std::size_t limit = 128 * 1024);
// One word of a configuration file: not empty, no white space, no control characters.
Status checkWord(std::string_view field, std::string_view word);
Status checkAbsolute(std::string_view field, std::string_view path);
Status checkPlace(std::string_view field, std::string_view path);  // absolute, without ".."
// A relative path that stays below its start: no "..", not empty.
Status checkBelow(std::string_view field, std::string_view path);
// A user or group id: 0 to 2^32 - 2 (the last number means "none" to the kernel).
Status checkUserId(std::string_view field, std::int64_t id);
Status checkUserIds(std::string_view field, const std::vector<std::int64_t>& ids);
// Names and values together at most 4096 bytes each pair, 1 MiB all of them.
Status checkLabels(std::string_view field, const StringMap& labels);
Status checkAnnotations(std::string_view field, const StringMap& annotations);  // 1 MiB all of them
// "field[key]", however long the key is.
std::string entryOf(std::string_view field, std::string_view key);
Status checkRange(std::string_view field, std::int64_t value, std::int64_t least, std::int64_t most);

template <typename ProtoMap>
StringMap toStringMap(const ProtoMap& map) {
  return {map.begin(), map.end()};
}

template <typename Repeated>
auto toVector(const Repeated& repeated) {
  return std::vector<typename Repeated::value_type>(repeated.begin(), repeated.end());
}

}  // namespace userpod::cri

// Names on the bus: object paths from ids, and text that the bus accepts.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace userpod::bus {

inline constexpr const char* kBusName = "org.userpod1";
inline constexpr const char* kRootPath = "/org/userpod1";

// Pods and containers by their id, images by the hex digits of theirs. What a path may not hold is escaped as _XX, so
// that any text gives a valid path.
std::string podPath(std::string_view id);
std::string containerPath(std::string_view id);
std::string imagePath(std::string_view id);
std::string jobPath(std::uint32_t id);

// The text with each malformed byte, and each NUL, replaced by U+FFFD: sd-bus refuses a message with malformed UTF-8.
std::string cleanText(std::string_view text);

}  // namespace userpod::bus

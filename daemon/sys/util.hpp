// Small things that several rooms need.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace userpod {

std::int64_t nowNanos();  // CLOCK_REALTIME, nanoseconds since the epoch: the CRI's timestamps
// CLOCK_BOOTTIME, nanoseconds: for differences. Nobody sets it, it counts a sleep, and daemons of one boot share it.
std::int64_t bootNanos();
std::string randomHex(std::size_t bytes);  // from getrandom(2), lower case, two digits a byte
bool isHex(std::string_view text);
std::vector<std::string> split(std::string_view text, char separator);  // keeps empty parts
std::string_view trim(std::string_view text);
// Whether the bytes are well-formed UTF-8 (no surrogates, no overlong forms): JSON, D-Bus and proto strings must be.
bool isUtf8(std::string_view bytes);
// Of bytes from anywhere, what a message can show: UTF-8 without control characters, cut after `most` bytes with "...".
std::string excerpt(std::string_view bytes, std::size_t most = 100);

}  // namespace userpod

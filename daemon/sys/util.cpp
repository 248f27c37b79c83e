#include "daemon/sys/util.hpp"

#include <sys/random.h>

#include <algorithm>
#include <cstdlib>
#include <ctime>

namespace userpod {

std::int64_t nowNanos() {
  timespec now{};
  ::clock_gettime(CLOCK_REALTIME, &now);
  return static_cast<std::int64_t>(now.tv_sec) * 1'000'000'000 + now.tv_nsec;
}

std::int64_t bootNanos() {
  timespec now{};
  ::clock_gettime(CLOCK_BOOTTIME, &now);
  return static_cast<std::int64_t>(now.tv_sec) * 1'000'000'000 + now.tv_nsec;
}

std::string randomHex(std::size_t bytes) {
  std::vector<unsigned char> data(bytes);
  if (::getrandom(data.data(), data.size(), 0) != static_cast<ssize_t>(data.size())) std::abort();
  constexpr std::string_view kDigits = "0123456789abcdef";
  std::string text;
  text.reserve(bytes * 2);
  for (unsigned char byte : data) {
    text += kDigits[byte >> 4];
    text += kDigits[byte & 15];
  }
  return text;
}

bool isHex(std::string_view text) {
  return std::all_of(text.begin(), text.end(), [](char c) { return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f'); });
}

std::vector<std::string> split(std::string_view text, char separator) {
  std::vector<std::string> parts;
  for (;;) {
    auto end = text.find(separator);
    parts.emplace_back(text.substr(0, end));
    if (end == std::string_view::npos) return parts;
    text.remove_prefix(end + 1);
  }
}

std::string_view trim(std::string_view text) {
  constexpr std::string_view kSpace = " \t\r\n";
  auto first = text.find_first_not_of(kSpace);
  if (first == std::string_view::npos) return {};
  return text.substr(first, text.find_last_not_of(kSpace) - first + 1);
}

bool isUtf8(std::string_view bytes) {
  std::size_t at = 0;
  auto byte = [&](std::size_t index) { return static_cast<unsigned char>(bytes[index]); };
  while (at < bytes.size()) {
    unsigned char first = byte(at);
    std::size_t length = first < 0x80 ? 1 : (first >> 5) == 6 ? 2 : (first >> 4) == 14 ? 3 : (first >> 3) == 30 ? 4 : 0;
    if (length == 0 || at + length > bytes.size()) return false;
    std::uint32_t point = length == 1 ? first : first & (0x7fU >> length);
    for (std::size_t i = 1; i < length; ++i) {
      if ((byte(at + i) & 0xc0) != 0x80) return false;
      point = (point << 6) | (byte(at + i) & 0x3fU);
    }
    constexpr std::uint32_t kLeast[] = {0, 0, 0x80, 0x800, 0x10000};
    if (point < kLeast[length] || point > 0x10ffff || (point >= 0xd800 && point <= 0xdfff)) return false;
    at += length;
  }
  return true;
}

std::string excerpt(std::string_view bytes, std::size_t most) {
  bool whole = bytes.size() <= most;
  if (!whole) {
    // Not in the middle of a character.
    while (most > 0 && (bytes[most] & 0xc0) == 0x80) --most;
    bytes = bytes.substr(0, most);
  }
  bool good = isUtf8(bytes);
  std::string text(bytes);
  for (char& c : text) {
    auto byte = static_cast<unsigned char>(c);
    if (byte < 0x20 || byte == 0x7f || (!good && byte >= 0x80)) c = '?';
  }
  return whole ? text : text + "...";
}

}  // namespace userpod

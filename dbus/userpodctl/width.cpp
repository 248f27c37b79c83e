// How wide texts are on a terminal.
#include <cwchar>
#include <utility>

#include "daemon/sys/util.hpp"
#include "dbus/userpodctl/top_view.hpp"

namespace userpod::ctl {
namespace {

struct Character {
  std::string_view bytes;  // as they are to be shown
  int width = 1;
};

bool turnsAround(char32_t code) {
  return (code >= 0x202a && code <= 0x202e) || (code >= 0x2066 && code <= 0x2069) || code == 0x200e || code == 0x200f ||
         code == 0x061c;
}

// Of well-formed UTF-8.
char32_t decode(std::string_view bytes) {
  auto at = [&](std::size_t i) { return static_cast<char32_t>(static_cast<unsigned char>(bytes[i])); };
  switch (bytes.size()) {
    case 1:
      return at(0);
    case 2:
      return (at(0) & 0x1f) << 6 | (at(1) & 0x3f);
    case 3:
      return (at(0) & 0x0f) << 12 | (at(1) & 0x3f) << 6 | (at(2) & 0x3f);
    default:
      return (at(0) & 0x07) << 18 | (at(1) & 0x3f) << 12 | (at(2) & 0x3f) << 6 | (at(3) & 0x3f);
  }
}

// Takes the next character off.
Character next(std::string_view& text) {
  auto lead = static_cast<unsigned char>(text.front());
  std::size_t size = lead < 0x80 ? 1 : lead >= 0xf0 ? 4 : lead >= 0xe0 ? 3 : 2;
  if (size > text.size() || !isUtf8(text.substr(0, size))) {
    text.remove_prefix(1);
    return {"?", 1};
  }
  auto bytes = text.substr(0, size);
  text.remove_prefix(size);
  char32_t code = decode(bytes);
  int width = ::wcwidth(static_cast<wchar_t>(code));
  if (width < 0 || turnsAround(code)) return {"?", 1};
  return {bytes, width};
}

}  // namespace

std::size_t displayWidth(std::string_view text) {
  std::size_t width = 0;
  while (!text.empty()) width += static_cast<std::size_t>(next(text).width);
  return width;
}

std::string fitted(std::string_view text, std::size_t width) {
  bool cut = displayWidth(text) > width;
  std::size_t room = cut && width > 0 ? width - 1 : width;
  constexpr std::size_t kMostMarks = 8;  // combining ones on one character
  std::string shown;
  std::size_t used = 0;
  std::size_t marks = 0;
  while (!text.empty()) {
    Character one = next(text);
    marks = one.width == 0 ? marks + 1 : 0;
    if (marks > kMostMarks) continue;
    if (used + static_cast<std::size_t>(one.width) > room) break;
    shown += one.bytes;
    used += static_cast<std::size_t>(one.width);
  }
  if (cut && width > 0) {
    shown += '~';
    ++used;
  }
  shown.append(width - used, ' ');
  return shown;
}

}  // namespace userpod::ctl

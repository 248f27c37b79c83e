#include "dbus/paths.hpp"

#include <fmt/format.h>

#include "daemon/sys/util.hpp"

namespace userpod::bus {
namespace {

constexpr std::string_view kDigestPrefix = "sha256:";
constexpr std::string_view kReplacement = "\xEF\xBF\xBD";

bool isPathCharacter(char c) {
  return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
}

std::string below(std::string_view folder, std::string_view element) {
  std::string path = fmt::format("{}/{}/", kRootPath, folder);
  if (element.empty()) path += '_';
  for (char c : element) {
    if (isPathCharacter(c))
      path += c;
    else
      path += fmt::format("_{:02x}", static_cast<unsigned char>(c));
  }
  return path;
}

// How many bytes the UTF-8 sequence that begins with this byte has, 0 when none does.
std::size_t sequenceLength(char first) {
  auto byte = static_cast<unsigned char>(first);
  if (byte == 0) return 0;
  if (byte < 0x80) return 1;
  if (byte >= 0xC2 && byte < 0xE0) return 2;
  if (byte >= 0xE0 && byte < 0xF0) return 3;
  if (byte >= 0xF0 && byte < 0xF5) return 4;
  return 0;
}

}  // namespace

std::string podPath(std::string_view id) {
  return below("pods", id);
}
std::string containerPath(std::string_view id) {
  return below("containers", id);
}

std::string imagePath(std::string_view id) {
  if (id.starts_with(kDigestPrefix)) id.remove_prefix(kDigestPrefix.size());
  return below("images", id);
}

std::string jobPath(std::uint32_t id) {
  return below("jobs", std::to_string(id));
}

std::string cleanText(std::string_view text) {
  if (isUtf8(text) && text.find('\0') == std::string_view::npos) return std::string(text);
  std::string clean;
  while (!text.empty()) {
    std::size_t length = sequenceLength(text.front());
    if (length > 0 && length <= text.size() && isUtf8(text.substr(0, length))) {
      clean += text.substr(0, length);
    } else {
      clean += kReplacement;
      length = 1;
    }
    text.remove_prefix(length);
  }
  return clean;
}

}  // namespace userpod::bus

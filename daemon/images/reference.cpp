#include "daemon/images/reference.hpp"

#include <arpa/inet.h>
#include <fmt/core.h>

#include <algorithm>

#include "daemon/sys/util.hpp"

namespace userpod::images {

namespace {

constexpr std::size_t kLongestName = 255;  // host and path together, as distribution has it
constexpr std::size_t kLongestTag = 128;
constexpr std::size_t kLongestText = 1024;

bool isLower(char c) {
  return c >= 'a' && c <= 'z';
}
bool isUpper(char c) {
  return c >= 'A' && c <= 'Z';
}
bool isDigit(char c) {
  return c >= '0' && c <= '9';
}
bool isWord(char c) {
  return isLower(c) || isUpper(c) || isDigit(c) || c == '_';
}

bool isPort(std::string_view text) {
  if (text.empty() || text.size() > 5 || !std::all_of(text.begin(), text.end(), isDigit)) return false;
  int value = 0;
  for (char c : text) value = value * 10 + (c - '0');
  return value >= 1 && value <= 65535;
}

bool isHostLabel(std::string_view label) {
  if (label.empty() || label.front() == '-' || label.back() == '-') return false;
  return std::all_of(label.begin(), label.end(), [](char c) { return (isWord(c) && c != '_') || c == '-'; });
}

bool isHost(std::string_view host) {
  if (!host.empty() && host.front() == '[') {
    auto end = host.find(']');
    if (end == std::string_view::npos) return false;
    std::string address(host.substr(1, end - 1));
    in6_addr parsed{};
    if (::inet_pton(AF_INET6, address.c_str(), &parsed) != 1) return false;
    auto rest = host.substr(end + 1);
    return rest.empty() || (rest.front() == ':' && isPort(rest.substr(1)));
  }
  auto colon = host.find(':');
  if (colon != std::string_view::npos && !isPort(host.substr(colon + 1))) return false;
  auto labels = split(host.substr(0, colon), '.');
  return std::all_of(labels.begin(), labels.end(), [](const std::string& label) { return isHostLabel(label); });
}

// [a-z0-9]+ runs, separated by one '.', one or two '_', or any number of '-'.
bool isPathComponent(std::string_view part) {
  auto isAlphanumeric = [](char c) { return isLower(c) || isDigit(c); };
  if (part.empty() || !isAlphanumeric(part.front()) || !isAlphanumeric(part.back())) return false;
  for (std::size_t at = 0; at < part.size();) {
    if (isAlphanumeric(part[at])) {
      ++at;
      continue;
    }
    char separator = part[at];
    std::size_t end = at;
    while (end < part.size() && part[end] == separator) ++end;
    std::size_t most = separator == '.' ? 1 : separator == '_' ? 2 : separator == '-' ? part.size() : 0;
    if (end - at > most || !isAlphanumeric(part[end])) return false;
    at = end;
  }
  return true;
}

bool isTag(std::string_view tag) {
  if (tag.empty() || tag.size() > kLongestTag || !isWord(tag.front())) return false;
  return std::all_of(tag.begin(), tag.end(), [](char c) { return isWord(c) || c == '.' || c == '-'; });
}

bool looksLikeHost(std::string_view first) {
  return first == "localhost" || first.find_first_of(".:[") != std::string_view::npos ||
         std::any_of(first.begin(), first.end(), isUpper);
}

Error invalidReference(std::string_view text, std::string_view why) {
  return Error(Code::InvalidArgument, fmt::format("image name \"{}\": {}", excerpt(text, 300), why));
}

}  // namespace

bool isSha256Digest(std::string_view text) {
  constexpr std::string_view kPrefix = "sha256:";
  return text.size() == kPrefix.size() + 64 && text.substr(0, kPrefix.size()) == kPrefix &&
         isHex(text.substr(kPrefix.size()));
}

Result<Reference> parseReference(std::string_view text) {
  if (text.empty()) return invalidReference(text, "it is empty");
  if (text.size() > kLongestText) return invalidReference(text, "it is too long");
  Reference reference;
  std::string_view rest = text;
  if (auto at = rest.find('@'); at != std::string_view::npos) {
    reference.digest = rest.substr(at + 1);
    if (!isSha256Digest(reference.digest))
      return invalidReference(
          text, "the digest must be sha256: and 64 lower case hex digits; other algorithms are not supported");
    rest = rest.substr(0, at);
  }
  auto lastSlash = rest.rfind('/');
  auto colon = rest.rfind(':');
  if (colon != std::string_view::npos && (lastSlash == std::string_view::npos || colon > lastSlash)) {
    reference.tag = rest.substr(colon + 1);
    if (!isTag(reference.tag))
      return invalidReference(text, "the tag may hold letters, digits, '_', '.' and '-', at most 128");
    rest = rest.substr(0, colon);
  }
  auto slash = rest.find('/');
  if (slash != std::string_view::npos && looksLikeHost(rest.substr(0, slash))) {
    reference.host = rest.substr(0, slash);
    if (!isHost(reference.host))
      return invalidReference(text, "the registry must be a host name or address, with a port at most");
    rest = rest.substr(slash + 1);
  }
  reference.path = rest;
  if (reference.host.size() + 1 + reference.path.size() > kLongestName)
    return invalidReference(text, "longer than 255 characters");
  for (const auto& part : split(rest, '/'))
    if (!isPathComponent(part))
      return invalidReference(
          text, "a repository has lower case letters and digits, with single '.', '_', '__' or '-' between");
  if (reference.isShort() && reference.path.size() == 64 && isHex(reference.path))
    return invalidReference(text, "64 hex digits are an image id, not a name");
  if (reference.host == "docker.io" && reference.path.find('/') == std::string::npos)
    reference.path = "library/" + reference.path;
  return reference;
}

}  // namespace userpod::images

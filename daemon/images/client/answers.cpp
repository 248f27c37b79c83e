#include "daemon/images/client/answers.hpp"

#include <curl/curl.h>

#include <algorithm>
#include <charconv>
#include <nlohmann/json.hpp>

#include "daemon/sys/util.hpp"

namespace userpod::images {

namespace {

using std::chrono::seconds;
constexpr std::int64_t kYear = 366LL * 24 * 3600;
constexpr std::size_t kDeepest = 16;

std::optional<std::uint64_t> takeNumber(std::string_view& text) {
  std::uint64_t number = 0;
  auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (error != std::errc()) return {};
  text.remove_prefix(static_cast<std::size_t>(end - text.data()));
  return number;
}

bool take(std::string_view& text, char c) {
  if (!text.starts_with(c)) return false;
  text.remove_prefix(1);
  return true;
}

// An object, not nested deeper than any honest one: freeing a deep tree recurses on the stack.
nlohmann::json parseShallow(std::string_view document) {
  auto limit = [](int depth, nlohmann::json::parse_event_t, nlohmann::json&) {
    return static_cast<std::size_t>(depth) < kDeepest;
  };
  return nlohmann::json::parse(document, limit, false);
}

std::string textOf(const nlohmann::json& object, const char* name) {
  if (!object.is_object()) return {};
  auto found = object.find(name);
  return found != object.end() && found->is_string() ? found->get<std::string>() : std::string();
}

}  // namespace

std::optional<seconds> parseRetryAfter(std::string_view header, std::time_t now) {
  auto text = trim(header);
  auto rest = text;
  if (auto number = takeNumber(rest); number && rest.empty())
    return seconds(static_cast<std::int64_t>(std::min<std::uint64_t>(*number, kYear)));
  if (!std::all_of(text.begin(), text.end(), [](char c) { return c >= ' ' && c <= '~'; }) || text.size() > 64)
    return {};
  auto date = curl_getdate(std::string(text).c_str(), nullptr);
  if (date < 0) return {};
  return seconds(std::clamp<std::int64_t>(static_cast<std::int64_t>(date) - now, 0, kYear));
}

std::optional<ContentRange> parseContentRange(std::string_view header) {
  auto text = trim(header);
  if (!text.starts_with("bytes ")) return {};
  text = trim(text.substr(6));
  ContentRange range;
  auto first = takeNumber(text);
  if (!first || !take(text, '-')) return {};
  auto last = takeNumber(text);
  if (!last || *last < *first || !take(text, '/')) return {};
  range.first = *first;
  range.last = *last;
  if (text == "*") return range;
  range.total = takeNumber(text);
  if (!range.total || !text.empty() || *range.total <= range.last) return {};
  return range;
}

std::optional<Token> parseToken(std::string_view document) {
  auto object = parseShallow(document);
  Token token;
  for (const char* name : {"token", "access_token"})
    if (token.token.empty()) token.token = textOf(object, name);
  auto isPlain = [](char c) { return c > ' ' && c <= '~'; };
  if (token.token.empty() || !std::all_of(token.token.begin(), token.token.end(), isPlain)) return {};
  token.refreshToken = textOf(object, "refresh_token");
  if (auto lifetime = object.find("expires_in"); lifetime != object.end() && lifetime->is_number())
    token.lifetime = seconds(static_cast<std::int64_t>(std::clamp(lifetime->get<double>(), 0.0, double(kYear))));
  return token;
}

std::string registryMessage(std::string_view document) {
  auto object = parseShallow(document);
  std::string text;
  if (object.is_object() && object.contains("errors") && object["errors"].is_array() && !object["errors"].empty()) {
    const auto& first = object["errors"].front();
    text = textOf(first, "message");
    if (text.empty()) text = textOf(first, "code");
  }
  for (const char* name : {"error_description", "details", "message", "error"})  // token servers, proxies
    if (text.empty()) text = textOf(object, name);
  std::string clean;
  for (char c : text.substr(0, 200))
    if (c >= ' ' && c <= '~') clean += c;
  return clean.empty() ? clean : " (" + clean + ")";
}

}  // namespace userpod::images

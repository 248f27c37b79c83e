// What registries and token servers answer beside images: headers and small documents. Pure functions of untrusted
// text.
#pragma once

#include <chrono>
#include <cstdint>
#include <ctime>
#include <optional>
#include <string>
#include <string_view>

namespace userpod::images {

// Retry-After (RFC 9110, section 10.2.3): seconds, or a date, which is taken as the time from `now`. Nothing: neither.
// At most a year.
std::optional<std::chrono::seconds> parseRetryAfter(std::string_view header, std::time_t now);

// Content-Range (RFC 9110, section 14.4) of an answer 206: "bytes first-last/total".
struct ContentRange {
  std::uint64_t first = 0, last = 0;
  std::optional<std::uint64_t> total;  // nothing: "*"
};
std::optional<ContentRange> parseContentRange(std::string_view header);

// The answer of a token server: https://distribution.github.io/distribution/spec/auth/
struct Token {
  std::string token;         // of characters that a header takes
  std::string refreshToken;  // a new one, or empty
  std::chrono::seconds lifetime{60};
};
std::optional<Token> parseToken(std::string_view document);

// The first message of the registry's error document, cut and without what would garble a log, as " (message)"; empty:
// none.
std::string registryMessage(std::string_view document);

}  // namespace userpod::images

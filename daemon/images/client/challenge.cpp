#include "daemon/images/client/challenge.hpp"

#include <algorithm>
#include <cctype>

namespace userpod::images {

namespace {

constexpr std::size_t kLongestHeader = 8192;
constexpr std::size_t kMostParameters = 64;

bool isTokenCharacter(char c) {
  constexpr std::string_view kSymbols = "!#$%&'*+-.^_`|~";
  return std::isalnum(static_cast<unsigned char>(c)) != 0 || kSymbols.find(c) != std::string_view::npos;
}

// A cursor over the header. Each take...() advances only over what it returns.
class Scanner {
 public:
  explicit Scanner(std::string_view text) : text_(text) {}

  void skip(std::string_view characters) {
    while (!text_.empty() && characters.find(text_.front()) != std::string_view::npos) text_.remove_prefix(1);
  }
  bool take(char c) {
    if (text_.empty() || text_.front() != c) return false;
    text_.remove_prefix(1);
    return true;
  }
  std::string token() {
    auto end = std::find_if_not(text_.begin(), text_.end(), isTokenCharacter);
    std::string found(text_.begin(), end);
    text_.remove_prefix(found.size());
    return found;
  }
  // A quoted string or a run without separators; false: an unterminated quote.
  bool value(std::string& found) {
    if (!take('"')) {
      while (!text_.empty() && std::string_view(", \t").find(text_.front()) == std::string_view::npos) {
        found += text_.front();
        text_.remove_prefix(1);
      }
      return true;
    }
    while (!text_.empty()) {
      char c = text_.front();
      text_.remove_prefix(1);
      if (c == '"') return true;
      if (c == '\\' && !text_.empty()) {
        c = text_.front();
        text_.remove_prefix(1);
      }
      found += c;
    }
    return false;
  }

 private:
  std::string_view text_;
};

std::string lower(std::string text) {
  std::transform(text.begin(), text.end(), text.begin(), [](unsigned char c) { return std::tolower(c); });
  return text;
}

}  // namespace

std::vector<Challenge> parseChallenges(std::string_view header) {
  std::vector<Challenge> challenges;
  Scanner scanner(header.substr(0, kLongestHeader));
  for (std::size_t count = 0; count < kMostParameters; ++count) {
    scanner.skip(" \t,");
    std::string name = lower(scanner.token());
    if (name.empty()) break;
    scanner.skip(" \t");
    if (!scanner.take('=')) {
      challenges.push_back({.scheme = name});
      continue;
    }
    scanner.skip(" \t");
    std::string value;
    if (!scanner.value(value) || challenges.empty()) break;
    challenges.back().parameters.try_emplace(std::move(name), std::move(value));
  }
  return challenges;
}

}  // namespace userpod::images

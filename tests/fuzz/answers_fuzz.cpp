// Headers and small documents of registries and token servers, URLs they redirect to, and proxies: within their bounds.
#include <algorithm>

#include "daemon/images/client/answers.hpp"
#include "daemon/images/client/proxies.hpp"
#include "daemon/images/client/url.hpp"
#include "tests/fuzz/fuzz.hpp"

using namespace userpod::images;
using userpod::fuzz::require;

namespace {

constexpr std::chrono::seconds kYear{366L * 24 * 3600};

bool isPlain(std::string_view text) {
  return std::all_of(text.begin(), text.end(), [](char c) { return c >= ' ' && c <= '~'; });
}

void checkAnswers(std::string_view text) {
  if (auto after = parseRetryAfter(text, 1445412480))
    require(after->count() >= 0 && *after <= kYear, "a pause is not negative, nor for ever");
  if (auto range = parseContentRange(text)) {
    require(range->first <= range->last, "a range has an order");
    require(!range->total || *range->total > range->last, "a range is within the whole");
  }
  if (auto token = parseToken(text)) {
    require(!token->token.empty() && isPlain(token->token), "a token fits a header");
    require(token->lifetime.count() >= 0 && token->lifetime <= kYear, "a token lives neither less nor longer");
  }
  auto message = registryMessage(text);
  require(message.size() <= 203 && isPlain(message), "a message is short, and plain");
}

void checkUrl(std::string_view text) {
  auto url = parseUrl(text);
  if (!url) return;
  require(url->scheme == "http" || url->scheme == "https", "nothing but http");
  require(isPlain(url->text) || url->text.find_first_of("\r\n") == std::string::npos, "a URL is one line");
  auto again = parseUrl(url->text);
  require(again && sameOrigin(*url, *again), "it leads there again");
  auto authority = url->text.substr(url->scheme.size() + 3);
  authority = authority.substr(0, authority.find_first_of("/?#"));
  require(authority.find('@') == std::string::npos, "it shows no password");
  auto from = parseUrl("https://registry.example/v2/");
  auto next = redirectTarget(*from, text);
  require(!next || next->isTls(), "https stays https");
  Proxies proxies{"http://proxy:1", std::string(text), "", std::string(text)};
  auto proxy = proxyFor(proxies, *url);
  require(!isLoopbackHost(url->host) || (proxy && proxy->empty()), "loopback has no proxy");
  require(proxyName(std::string(text)).find('@') == std::string::npos, "a proxy's name shows no password");
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  auto text = userpod::fuzz::text(data, size);
  checkAnswers(text);
  checkUrl(text);
  // A list of hosts without a proxy, for each kind of host.
  for (const char* host : {"https://registry.example:5000/", "https://10.1.2.3/", "https://[fd00::1]:5000/"})
    (void)proxyFor({"", "http://proxy:1", "", std::string(text)}, *parseUrl(host));
  return 0;
}

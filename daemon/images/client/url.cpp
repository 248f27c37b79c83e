#include "daemon/images/client/url.hpp"

#include <arpa/inet.h>
#include <curl/curl.h>
#include <fmt/core.h>

#include <algorithm>
#include <cctype>
#include <cstdlib>
#include <memory>

namespace userpod::images {

namespace {

constexpr std::size_t kLongestUrl = 16U << 10;

std::string partOf(CURLU* url, CURLUPart part, unsigned flags = 0) {
  char* text = nullptr;
  if (curl_url_get(url, part, &text, flags) != CURLUE_OK) return {};
  std::string copy = text;
  curl_free(text);
  return copy;
}

}  // namespace

std::optional<Url> parseUrl(std::string_view text) {
  if (text.size() > kLongestUrl || text.find('\0') != std::string_view::npos) return {};
  std::unique_ptr<CURLU, void (*)(CURLU*)> parser(curl_url(), curl_url_cleanup);
  if (!parser) std::abort();  // no memory at all
  if (curl_url_set(parser.get(), CURLUPART_URL, std::string(text).c_str(), 0) != CURLUE_OK) return {};
  for (auto part : {CURLUPART_USER, CURLUPART_PASSWORD, CURLUPART_OPTIONS, CURLUPART_FRAGMENT})
    curl_url_set(parser.get(), part, nullptr, 0);
  Url url{.text = partOf(parser.get(), CURLUPART_URL),
          .scheme = partOf(parser.get(), CURLUPART_SCHEME),
          .host = partOf(parser.get(), CURLUPART_HOST),
          .given = partOf(parser.get(), CURLUPART_PORT)};
  if ((url.scheme != "http" && url.scheme != "https") || url.host.empty() || url.text.empty()) return {};
  std::transform(url.host.begin(), url.host.end(), url.host.begin(), [](unsigned char c) { return std::tolower(c); });
  if (!url.given.empty()) url.given.insert(0, ":");
  url.port = static_cast<std::uint16_t>(std::atoi(partOf(parser.get(), CURLUPART_PORT, CURLU_DEFAULT_PORT).c_str()));
  return url;
}

bool sameOrigin(const Url& a, const Url& b) {
  return a.scheme == b.scheme && a.host == b.host && a.port == b.port;
}

bool isLoopbackHost(std::string_view host) {
  if (host == "localhost" || host == "[::1]") return true;
  in_addr address{};
  return ::inet_pton(AF_INET, std::string(host).c_str(), &address) == 1 && (ntohl(address.s_addr) >> 24) == 127;
}

Result<Url> redirectTarget(const Url& from, std::string_view to) {
  auto next = parseUrl(to);
  if (!next)
    return Error(Code::RegistryUnreachable,
                 fmt::format("{} redirects to what is no URL of http or https", from.authority()));
  if (from.isTls() && !next->isTls())
    return Error(Code::RegistryUnreachable, fmt::format("{} redirects from https to http at {}, which is not followed",
                                                        from.authority(), next->authority()));
  return *std::move(next);
}

std::string urlEncode(std::string_view text) {
  constexpr std::string_view kPlain = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~";
  std::string encoded;
  for (char c : text) {
    if (kPlain.find(c) != std::string_view::npos)
      encoded += c;
    else
      encoded += fmt::format("%{:02X}", static_cast<unsigned char>(c));
  }
  return encoded;
}

}  // namespace userpod::images

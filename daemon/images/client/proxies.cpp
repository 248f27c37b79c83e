#include "daemon/images/client/proxies.hpp"

#include <arpa/inet.h>
#include <fmt/core.h>

#include <algorithm>
#include <array>
#include <cctype>
#include <charconv>
#include <cstdlib>
#include <cstring>
#include <optional>

#include "daemon/sys/util.hpp"

namespace userpod::images {

namespace {

// An address of either family as 16 bytes, IPv4 mapped into IPv6.
using Address = std::array<unsigned char, 16>;

std::optional<Address> parseAddress(std::string_view text) {
  if (text.size() > 2 && text.front() == '[' && text.back() == ']') text = text.substr(1, text.size() - 2);
  std::string copy(text);
  Address address{};
  if (::inet_pton(AF_INET6, copy.c_str(), address.data()) == 1) return address;
  in_addr four{};
  if (::inet_pton(AF_INET, copy.c_str(), &four) != 1) return {};
  address[10] = address[11] = 0xff;
  std::memcpy(address.data() + 12, &four, sizeof four);
  return address;
}

bool inNetwork(const Address& address, std::string_view network) {
  auto slash = network.find('/');
  auto base = parseAddress(network.substr(0, slash));
  if (!base) return false;
  unsigned length = 0;
  auto text = network.substr(slash + 1);
  auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), length);
  if (error != std::errc() || end != text.data() + text.size()) return false;
  if (network.find('.') < slash && network.find(':') == std::string_view::npos) length += 96;
  if (length > 128) return false;
  for (unsigned bit = 0; bit < length; ++bit) {
    unsigned mask = 0x80U >> (bit % 8);
    if (((address[bit / 8] ^ (*base)[bit / 8]) & mask) != 0) return false;
  }
  return true;
}

bool matches(std::string entry, const Url& url) {
  if (entry == "*") return true;
  std::transform(entry.begin(), entry.end(), entry.begin(), [](unsigned char c) { return std::tolower(c); });
  auto address = parseAddress(url.host);
  if (entry.find('/') != std::string::npos) return address && inNetwork(*address, entry);
  // A port behind a name, an IPv4 address or brackets; a bare IPv6 address has more colons.
  auto colon = entry.rfind(':');
  bool hasPort = colon != std::string::npos && (entry.find(':') == colon || entry[colon - 1] == ']');
  if (hasPort) {
    if (entry.substr(colon + 1) != std::to_string(url.port)) return false;
    entry.resize(colon);
  }
  if (auto same = parseAddress(entry)) return address == same;
  if (entry.starts_with("*.")) entry.erase(0, 1);
  if (entry.empty() || address) return false;
  if (entry.front() == '.') return url.host.ends_with(entry);
  return url.host == entry || url.host.ends_with("." + entry);
}

}  // namespace

Proxies readProxies(const std::function<const char*(const char*)>& variable) {
  auto either = [&](const char* lower, const char* upper) -> std::string {
    for (const char* name : {lower, upper})
      if (const char* value = variable(name); value != nullptr && *value != '\0') return value;
    return {};
  };
  return {either("http_proxy", "HTTP_PROXY"), either("https_proxy", "HTTPS_PROXY"), either("all_proxy", "ALL_PROXY"),
          either("no_proxy", "NO_PROXY")};
}

Proxies environmentProxies() {
  return readProxies([](const char* name) { return std::getenv(name); });
}

Result<std::string> proxyFor(const Proxies& proxies, const Url& url) {
  const std::string& own = url.isTls() ? proxies.https : proxies.http;
  std::string proxy = own.empty() ? proxies.all : own;
  if (proxy.empty() || isLoopbackHost(url.host)) return std::string();
  std::string list = proxies.none;
  std::replace_if(list.begin(), list.end(), [](unsigned char c) { return std::isspace(c) != 0; }, ',');
  for (auto& entry : split(list, ','))
    if (!entry.empty() && matches(std::move(entry), url)) return std::string();
  if (proxy.find("://") == std::string::npos) proxy.insert(0, "http://");
  constexpr std::string_view kSchemes[] = {"http", "https", "socks4", "socks4a", "socks5", "socks5h"};
  auto scheme = proxy.substr(0, proxy.find("://"));
  if (std::find(std::begin(kSchemes), std::end(kSchemes), scheme) == std::end(kSchemes))
    return Error(Code::ConfigInvalid,
                 fmt::format("the proxy {} for {} is of scheme \"{}\": http, https and socks5 are known; see the "
                             "variables http_proxy, https_proxy and all_proxy",
                             proxyName(proxy), url.authority(), excerpt(scheme, 20)));
  return proxy;
}

std::string proxyName(const std::string& proxy) {
  auto start = proxy.find("://");
  auto name = start == std::string::npos ? proxy : proxy.substr(start + 3);
  // A password may hold any of these unencoded: all before the last "@" goes.
  if (auto at = name.rfind('@'); at != std::string::npos) name.erase(0, at + 1);
  return excerpt(name.substr(0, name.find_first_of("/?#")));
}

}  // namespace userpod::images

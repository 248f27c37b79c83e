// Which proxy leads to a URL: the variables http_proxy, https_proxy, all_proxy and no_proxy, in either case.
#pragma once

#include <functional>
#include <string>

#include "daemon/images/client/url.hpp"

namespace userpod::images {

// Values as the variables have them: they may hold a password, and are never shown.
struct Proxies {
  std::string http, https, all;
  std::string none;  // hosts without: names (with all below them), ".name" (only what is below), addresses, networks
                     // in CIDR notation, each with ":port" if need be; "*" is all. Separated by commas or spaces.
};

// Lower case before upper case, as curl has it. `variable` is getenv(3) in programs.
Proxies readProxies(const std::function<const char*(const char*)>& variable);
Proxies environmentProxies();

// Of this URL, or empty: none. Never for loopback addresses. ConfigInvalid where a proxy's scheme is not http, https,
// socks4, socks4a, socks5 or socks5h.
Result<std::string> proxyFor(const Proxies& proxies, const Url& url);
// "host:port" of a proxy, for messages.
std::string proxyName(const std::string& proxy);

}  // namespace userpod::images

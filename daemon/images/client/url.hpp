// URLs of http and https, taken apart by libcurl's parser, and where a redirect may lead. Pure functions of untrusted
// text.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "daemon/sys/error.hpp"

namespace userpod::images {

struct Url {
  std::string text;    // normalised, without user, password and fragment
  std::string scheme;  // "http" or "https"
  std::string host;    // lower case, an IPv6 address in brackets
  std::string given;   // ":port" where the text has one
  std::uint16_t port = 0;

  std::string authority() const { return host + given; }  // as messages and certs.d name it
  bool isTls() const { return scheme == "https"; }
};

// Nothing: not http or https, no host, or longer than 16 KiB.
std::optional<Url> parseUrl(std::string_view text);
bool sameOrigin(const Url& a, const Url& b);  // scheme, host and port
// "localhost", 127.0.0.0/8, [::1]; the host without its port.
bool isLoopbackHost(std::string_view host);

// Where an answer of `from` sends the client: never from https to http. RegistryUnreachable names both hosts and
// nothing else, for a URL may be signed.
Result<Url> redirectTarget(const Url& from, std::string_view to);

// Percent-encodes everything but letters, digits and "-._~".
std::string urlEncode(std::string_view text);

}  // namespace userpod::images

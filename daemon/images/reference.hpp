// Names of images: the reference grammar of Docker and OCI distribution. Pure functions of untrusted text.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "daemon/sys/error.hpp"
#include "policy/settings.hpp"

namespace userpod::images {

// [host[:port]/]path[:tag][@algorithm:hex]. Parts that the text does not have are empty; defaults are added by
// qualify().
struct Reference {
  std::string host;    // with the port; "[::1]:5000" for an IPv6 address
  std::string path;    // "library/nginx", lower case
  std::string tag;     // at most 128 characters
  std::string digest;  // "sha256:<64 hex>"; other algorithms are refused by name

  bool isShort() const { return host.empty(); }
  std::string repository() const { return host + "/" + path; }
  std::string tagged() const { return repository() + ":" + tag; }
  std::string digested(std::string_view which) const { return repository() + "@" + std::string(which); }
};

// InvalidArgument says which part is wrong. The first component is a host when it has a dot, a colon or an upper case
// letter, or is "localhost": as Docker tells them apart.
Result<Reference> parseReference(std::string_view text);

// Complete names in the order to try: one for a name with a host, one for each search registry for a short name.
// A name without tag and digest gets "latest"; a tag beside a digest is dropped, because the digest decides.
std::vector<Reference> qualify(const Reference& reference, const std::vector<std::string>& searchRegistries);

// "sha256:" and 64 lower case hex digits.
bool isSha256Digest(std::string_view text);

// Where a reference is asked for: the mirrors that apply (longest prefix first), then the registry itself.
struct Endpoint {
  std::string host;        // host[:port] to connect to
  std::string path;        // repository there
  bool plainHttp = false;  // listed as insecure
  bool loopback = false;   // plain HTTP is tried first, then HTTPS
  bool mirror = false;     // the caller's credentials are not for it
};
std::vector<Endpoint> endpoints(const Reference& reference, const Settings& settings);

}  // namespace userpod::images

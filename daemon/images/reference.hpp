// Names of images: the reference grammar of Docker and OCI distribution. Pure functions of untrusted text.
#pragma once

#include <string>
#include <string_view>

#include "daemon/sys/error.hpp"

namespace userpod::images {

// [host[:port]/]path[:tag][@algorithm:hex]. Parts that the text does not have are empty.
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

// "sha256:" and 64 lower case hex digits.
bool isSha256Digest(std::string_view text);

}  // namespace userpod::images

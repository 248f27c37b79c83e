// What the tests of the registry client share: a repository that a fake server has, and a client of it.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <string>

#include "daemon/images/client/registry.hpp"
#include "daemon/images/digest.hpp"
#include "tests/unit/fake_server.hpp"

namespace userpod::images {

using testing::FakeConnection;
using testing::FakeRequest;
using testing::FakeServer;

inline const std::string kManifest = R"({"schemaVersion":2,"manifests":[]})";
inline const std::string kManifests = "/v2/a/b/manifests/latest";

inline std::string someBytes(std::size_t size) {
  std::string bytes(size, '\0');
  std::uint32_t state = 1;
  for (char& byte : bytes) byte = static_cast<char>((state = state * 1664525 + 1013904223) >> 24);
  return bytes;
}

inline Descriptor descriptorOf(const std::string& bytes) {
  return {.digest = sha256Digest(bytes), .size = static_cast<std::int64_t>(bytes.size())};
}

class ClientTest : public ::testing::Test {
 protected:
  Registry registry(const FakeServer& server, Credentials credentials = {}, bool insecure = false) {
    return registryAt(server.address(), std::move(credentials), insecure);
  }
  Registry registryAt(const std::string& host, Credentials credentials = {}, bool insecure = false,
                      bool loopback = true) {
    Endpoint endpoint{.host = host, .path = "a/b", .insecure = insecure, .loopback = loopback};
    return {endpoint, std::move(credentials), places_, stop_.get_token(), options_};
  }
  // The blob's bytes, or the error's text.
  Result<std::string> fetch(Registry& registry, const Descriptor& descriptor) {
    std::string bytes;
    USERPOD_CHECK(registry.blob(descriptor, stop_.get_token(), [&](std::string_view part) -> Status {
      bytes += part;
      return {};
    }));
    return bytes;
  }
  template <typename T>
  static Code codeOf(const Result<T>& result) {
    if (!result) return result.error().code();
    ADD_FAILURE() << "no error";
    return Code::Internal;
  }
  template <typename T>
  static std::string textOf(const Result<T>& result) {
    return result ? "no error" : result.error().text();
  }
  static std::ptrdiff_t count(const std::vector<std::string>& all, std::string_view start) {
    return std::count_if(all.begin(), all.end(), [&](const auto& one) { return one.starts_with(start); });
  }

  Places places_;
  std::stop_source stop_;
  ClientOptions options_{.stallSeconds = 30, .proxies = {}};
};

}  // namespace userpod::images

// A registry by the OCI distribution protocol: manifests and blobs of one repository.
#pragma once

#include <functional>
#include <mutex>
#include <stop_token>
#include <string>
#include <string_view>

#include "daemon/images/client/http.hpp"
#include "daemon/images/manifest.hpp"
#include "daemon/images/registries/access.hpp"
#include "daemon/images/registries/registries.hpp"

namespace userpod::images {

struct FetchedManifest {
  std::string document;
  std::string contentType;
  std::string digest;  // of the bytes
};

// manifest() first, from one thread: it finds the scheme and the authentication that blob() then uses from any thread.
// Errors name host and repository: RegistryUnreachable, RegistryAuthRequired (no credentials given), RegistryDenied,
// ManifestUnknown, DigestMismatch, LimitsExceeded.
class Registry {
 public:
  // The credentials are sent to this registry and its token server alone.
  Registry(Endpoint endpoint, Credentials credentials, Places places, std::stop_token stop);

  Result<FetchedManifest> manifest(const std::string& tagOrDigest);
  // The bytes in order; only their number is bounded here, the caller verifies the digest.
  Status blob(const Descriptor& descriptor, const std::stop_token& stop, std::function<Status(std::string_view)> sink);
  Result<std::string> smallBlob(const Descriptor& descriptor);  // verified

 private:
  Result<HttpResponse> request(HttpClient& client, HttpRequest request, const std::stop_token& stop);
  Status authenticate(const HttpResponse& refused, const std::string& used, const std::stop_token& stop);
  Result<std::string> fetchToken(const std::map<std::string, std::string>& parameters, const std::stop_token& stop);
  Error refusal(const HttpResponse& response, std::string_view what) const;
  std::string url(std::string_view kind, std::string_view name) const;

  Endpoint endpoint_;
  Credentials credentials_;
  Places places_;  // of certs.d
  std::stop_token stop_;
  std::string scheme_;
  HttpClient client_;  // of the thread that calls manifest()
  std::mutex mutex_;
  std::string authorization_;  // guarded by mutex_
};

}  // namespace userpod::images

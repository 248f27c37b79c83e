// A registry by the OCI distribution protocol: manifests and blobs of one repository.
#pragma once

#include <functional>
#include <memory>
#include <mutex>
#include <stop_token>
#include <string>
#include <string_view>
#include <vector>

#include "daemon/images/client/auth.hpp"
#include "daemon/images/client/http.hpp"
#include "daemon/images/manifest.hpp"
#include "daemon/images/registries/access.hpp"
#include "daemon/images/registries/registries.hpp"

namespace userpod::images {

struct FetchedManifest {
  std::string document;
  std::string contentType;
  std::string digest;  // of the bytes; of a signed Docker schema 1 manifest, of its bytes without the signatures
};

// Any thread; each that asks at the same time has a connection of its own, which is kept for the next request. The
// first request chooses between https and http, where both are allowed, for good. Errors name host and repository:
// RegistryUnreachable, RegistryAuthRequired (no credentials given), RegistryDenied, ManifestUnknown, DigestMismatch,
// LimitsExceeded, ConfigInvalid, Canceled.
class Registry {
 public:
  // The credentials are sent to this registry and its token server alone.
  Registry(Endpoint endpoint, Credentials credentials, Places places, std::stop_token stop, ClientOptions options = {});
  ~Registry();

  Result<FetchedManifest> manifest(const std::string& tagOrDigest);
  // The bytes in order; only their number is bounded here, the caller verifies the digest.
  Status blob(const Descriptor& descriptor, const std::stop_token& stop,
              const std::function<Status(std::string_view)>& sink);
  // A foreign layer: from the first of these URLs that serves it, without credentials, by https (http where this
  // registry may be asked so).
  Status externalBlob(const std::vector<std::string>& urls, const Descriptor& descriptor, const std::stop_token& stop,
                      const std::function<Status(std::string_view)>& sink);
  Result<std::string> smallBlob(const Descriptor& descriptor);  // verified

 private:
  class Lease;
  Result<std::string> scheme(HttpClient& client, const std::stop_token& stop);
  Result<HttpResponse> request(std::string_view kind, std::string_view name, HttpRequest& request,
                               const std::stop_token& stop);
  std::function<Status(std::string_view)> bounded(const Descriptor& descriptor, const HttpRequest& request,
                                                  const std::function<Status(std::string_view)>& sink) const;
  Error wrongSize(const Descriptor& descriptor, std::uint64_t received) const;
  std::string where() const { return endpoint_.host + "/" + endpoint_.path; }

  const Endpoint endpoint_;
  const std::string server_;  // host[:port] that serves it
  const std::stop_token stop_;
  const std::shared_ptr<ClientContext> context_;
  Authenticator authenticator_;
  std::timed_mutex choosing_;  // held while the scheme is chosen
  std::mutex mutex_;           // guards what follows
  std::string scheme_;         // empty: not chosen yet
  std::vector<std::unique_ptr<HttpClient>> idle_;
};

}  // namespace userpod::images

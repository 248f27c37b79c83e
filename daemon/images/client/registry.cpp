#include "daemon/images/client/registry.hpp"

#include <fmt/core.h>

#include "daemon/images/digest.hpp"
#include "daemon/sys/log.hpp"

namespace userpod::images {

namespace {

using namespace std::chrono_literals;

constexpr const char* kAccepted =
    "application/vnd.oci.image.index.v1+json, application/vnd.oci.image.manifest.v1+json, "
    "application/vnd.docker.distribution.manifest.list.v2+json, "
    "application/vnd.docker.distribution.manifest.v2+json, "
    "application/vnd.docker.distribution.manifest.v1+prettyjws;q=0.5, "
    "application/vnd.docker.distribution.manifest.v1+json;q=0.5";
constexpr int kMostRefusals = 2;  // in a row, to one request

std::optional<std::uint64_t> sizeOf(const Descriptor& descriptor) {
  if (descriptor.size < 0) return {};
  return static_cast<std::uint64_t>(descriptor.size);
}

bool isHub(const std::string& host) {
  return host == "docker.io" || host == "index.docker.io";
}

}  // namespace

// A client of the pool, for one request.
class Registry::Lease {
 public:
  explicit Lease(Registry& registry) : registry_(registry) {
    std::lock_guard lock(registry.mutex_);
    if (registry.idle_.empty()) return;
    client_ = std::move(registry.idle_.back());
    registry.idle_.pop_back();
  }
  ~Lease() {
    std::lock_guard lock(registry_.mutex_);
    if (client_) registry_.idle_.push_back(std::move(client_));
  }
  HttpClient& client() {
    if (!client_) client_ = std::make_unique<HttpClient>(registry_.context_);
    return *client_;
  }

 private:
  Registry& registry_;
  std::unique_ptr<HttpClient> client_;
};

Registry::Registry(Endpoint endpoint, Credentials credentials, Places places, std::stop_token stop,
                   ClientOptions options)
    : endpoint_(std::move(endpoint)),
      server_(isHub(endpoint_.host) ? "registry-1.docker.io" : endpoint_.host),
      stop_(std::move(stop)),
      context_(std::make_shared<ClientContext>(std::move(options), std::move(places))),
      authenticator_(endpoint_, std::move(credentials), context_) {
  if (!endpoint_.insecure && !endpoint_.loopback) scheme_ = "https";
  auto url = parseUrl("https://" + server_ + "/");
  if (endpoint_.insecure && url) context_->unverifiedHost = url->host;
}

Registry::~Registry() = default;

// https, unless what answers does not speak it. A certificate that is refused is no reason for http.
Result<std::string> Registry::scheme(HttpClient& client, const std::stop_token& stop) {
  auto chosen = [this] {
    std::lock_guard lock(mutex_);
    return scheme_;
  };
  if (auto scheme = chosen(); !scheme.empty()) return scheme;
  std::unique_lock choosing(choosing_, std::defer_lock);
  while (!choosing.try_lock_for(100ms))
    if (stop.stop_requested()) return Error(Code::Canceled, "canceled while asking " + endpoint_.host);
  if (auto scheme = chosen(); !scheme.empty()) return scheme;
  HttpRequest request{.url = fmt::format("https://{}/v2/", server_), .probe = true};
  USERPOD_TRY(response, client.get(request, stop));
  std::string scheme = response.status == 0 ? "http" : "https";
  logDebug("registry {}: asked by {}", endpoint_.host, scheme);
  std::lock_guard lock(mutex_);
  return scheme_ = scheme;
}

Result<HttpResponse> Registry::request(std::string_view kind, std::string_view name, HttpRequest& request,
                                       const std::stop_token& stop) {
  Lease lease(*this);
  USERPOD_TRY(by, scheme(lease.client(), stop));
  request.url = fmt::format("{}://{}/v2/{}/{}/{}", by, server_, endpoint_.path, kind, name);
  auto origin = parseUrl(request.url);
  if (!origin) return Error(Code::InvalidArgument, endpoint_.host + " is no host of a registry");
  for (int refusals = 0;;) {
    auto before = request.delivered;
    USERPOD_TRY(authorization, authenticator_.authorization(refusals > 0, stop));
    request.authorization = authorization;
    USERPOD_TRY(response, lease.client().get(request, stop));
    if (response.status != 401) return std::move(response);
    // Nobody but the registry is shown credentials.
    if (!sameOrigin(response.from, *origin))
      return Error(Code::RegistryDenied, fmt::format("{}: {}, to which the registry redirects, denies access", where(),
                                                     response.from.authority()));
    refusals = request.delivered > before ? 1 : refusals + 1;
    if (refusals > kMostRefusals) return std::move(response);
    USERPOD_CHECK(authenticator_.answer(response, authorization, stop));
  }
}

Result<FetchedManifest> Registry::manifest(const std::string& tagOrDigest) {
  HttpRequest wanted{.accept = kAccepted, .limit = kLargestManifest};
  USERPOD_TRY(response, request("manifests", tagOrDigest, wanted, stop_));
  if (response.status != 200) return authenticator_.refusal(response, tagOrDigest);
  FetchedManifest fetched{std::move(response.body), response.header("content-type"), {}};
  fetched.document = signedManifest(std::move(fetched.document));
  fetched.digest = sha256Digest(fetched.document);
  std::string claimed = isSha256Digest(tagOrDigest) ? tagOrDigest : response.header("docker-content-digest");
  if (isSha256Digest(claimed) && claimed != fetched.digest)
    return Error(Code::DigestMismatch, fmt::format("{}: the manifest is {}, not {}", where(), fetched.digest, claimed));
  return fetched;
}

Error Registry::wrongSize(const Descriptor& descriptor, std::uint64_t received) const {
  return Error(Code::DigestMismatch,
               fmt::format("{}: {} has {} bytes, not {}", where(), descriptor.digest, received, descriptor.size));
}

std::function<Status(std::string_view)> Registry::bounded(const Descriptor& descriptor, const HttpRequest& request,
                                                          const std::function<Status(std::string_view)>& sink) const {
  return [&, this](std::string_view bytes) -> Status {
    if (request.wholeSize && request.delivered + bytes.size() > *request.wholeSize)
      return Error(Code::DigestMismatch,
                   fmt::format("{}: {} is longer than its {} bytes", where(), descriptor.digest, descriptor.size));
    return sink(bytes);
  };
}

Status Registry::blob(const Descriptor& descriptor, const std::stop_token& stop,
                      const std::function<Status(std::string_view)>& sink) {
  HttpRequest wanted{.wholeSize = sizeOf(descriptor)};
  wanted.sink = bounded(descriptor, wanted, sink);
  USERPOD_TRY(response, request("blobs", descriptor.digest, wanted, stop));
  if (response.status != 200) return authenticator_.refusal(response, "blob " + descriptor.digest);
  if (wanted.wholeSize && wanted.delivered != *wanted.wholeSize) return wrongSize(descriptor, wanted.delivered);
  return {};
}

Status Registry::externalBlob(const std::vector<std::string>& urls, const Descriptor& descriptor,
                              const std::stop_token& stop, const std::function<Status(std::string_view)>& sink) {
  Lease lease(*this);
  HttpRequest wanted{.wholeSize = sizeOf(descriptor)};
  std::optional<Error> sinkFailure;
  auto checked = bounded(descriptor, wanted, sink);
  wanted.sink = [&](std::string_view bytes) -> Status {
    auto status = checked(bytes);
    if (!status) sinkFailure = status.error();
    return status;
  };
  std::string failures;
  for (const auto& text : urls) {
    auto url = parseUrl(text);
    if (!url || (!url->isTls() && !endpoint_.insecure && !endpoint_.loopback)) {
      failures += fmt::format("; {} is not https", url ? url->authority() : "what");
      continue;
    }
    wanted.url = url->text;
    auto response = lease.client().get(wanted, stop);
    // Not of the server: the next one would not do better, and bytes that were taken are not taken back.
    if (sinkFailure) return *std::move(sinkFailure);
    if (!response && response.error().code() == Code::Canceled) return std::move(response).error();
    if (response && response->status == 200 && wanted.delivered == wanted.wholeSize.value_or(wanted.delivered))
      return {};
    if (!response)
      failures += "; " + response.error().text();
    else if (response->status == 200)
      failures += fmt::format("; {} has {} bytes, not {}", url->authority(), wanted.delivered, descriptor.size);
    else
      failures += fmt::format("; {} answers status {}", url->authority(), response->status);
  }
  return Error(Code::RegistryUnreachable, fmt::format("{}: no place that the image names serves the foreign layer {}{}",
                                                      where(), descriptor.digest, failures));
}

Result<std::string> Registry::smallBlob(const Descriptor& descriptor) {
  std::string bytes;
  USERPOD_CHECK(blob(descriptor, stop_, [&](std::string_view part) -> Status {
    bytes += part;
    return {};
  }));
  auto digest = sha256Digest(bytes);
  if (digest != descriptor.digest)
    return Error(Code::DigestMismatch, fmt::format("{}: a blob is {}, not {}", where(), digest, descriptor.digest));
  return bytes;
}

}  // namespace userpod::images

#include "daemon/images/client/registry.hpp"

#include <fmt/core.h>
#include <openssl/evp.h>

#include <nlohmann/json.hpp>

#include "daemon/images/client/challenge.hpp"
#include "daemon/images/digest.hpp"
#include "daemon/sys/util.hpp"

namespace userpod::images {

namespace {

constexpr const char* kAccepted =
    "application/vnd.oci.image.index.v1+json, application/vnd.oci.image.manifest.v1+json, "
    "application/vnd.docker.distribution.manifest.list.v2+json, application/vnd.docker.distribution.manifest.v2+json, "
    "application/vnd.docker.distribution.manifest.v1+prettyjws";
constexpr std::size_t kLargestToken = 64U << 10;

std::string base64(std::string_view text) {
  std::string encoded((text.size() + 2) / 3 * 4, '\0');
  EVP_EncodeBlock(reinterpret_cast<unsigned char*>(encoded.data()), reinterpret_cast<const unsigned char*>(text.data()),
                  static_cast<int>(text.size()));
  return encoded;
}

// The registry's own words, cut and without what would garble a log.
std::string registryMessage(const std::string& body) {
  auto object = nlohmann::json::parse(body, nullptr, false);
  if (!object.is_object()) return {};
  auto errors = object.find("errors");
  if (errors == object.end() || !errors->is_array() || errors->empty() || !errors->front().is_object()) return {};
  auto message = errors->front().find("message");
  if (message == errors->front().end() || !message->is_string()) return {};
  auto text = message->get<std::string>().substr(0, 200);
  std::string clean;
  for (char c : text)
    if (c >= ' ' && c <= '~') clean += c;
  return clean.empty() ? clean : " (" + clean + ")";
}

}  // namespace

Registry::Registry(Endpoint endpoint, Credentials credentials, Places places, std::stop_token stop)
    : endpoint_(std::move(endpoint)),
      credentials_(std::move(credentials)),
      places_(std::move(places)),
      stop_(std::move(stop)) {
  scheme_ = endpoint_.insecure || endpoint_.loopback ? "http" : "https";
}

std::string Registry::url(std::string_view kind, std::string_view name) const {
  bool hub = endpoint_.host == "docker.io" || endpoint_.host == "index.docker.io";
  return fmt::format("{}://{}/v2/{}/{}/{}", scheme_, hub ? "registry-1.docker.io" : endpoint_.host, endpoint_.path,
                     kind, name);
}

Error Registry::refusal(const HttpResponse& response, std::string_view what) const {
  std::string where = fmt::format("{}/{}", endpoint_.host, endpoint_.path);
  std::string message = registryMessage(response.body);
  switch (response.status) {
    case 401:
      if (credentials_.username.empty())
        return Error(Code::RegistryAuthRequired,
                     fmt::format("{}: the registry demands credentials, or there is no such image{}", where, message));
      return Error(Code::RegistryDenied, fmt::format("{}: the registry refuses the credentials{}", where, message));
    case 403:
      return Error(Code::RegistryDenied, fmt::format("{}: the registry denies access{}", where, message));
    case 404:
      return Error(Code::ManifestUnknown, fmt::format("{}: the registry has no {}{}", where, what, message));
    default:
      return Error(Code::RegistryUnreachable,
                   fmt::format("{}: the registry answers status {} for {}{}", where, response.status, what, message));
  }
}

Result<std::string> Registry::fetchToken(const std::map<std::string, std::string>& parameters,
                                         const std::stop_token& stop) {
  auto parameter = [&](const char* name) {
    auto found = parameters.find(name);
    return found == parameters.end() ? std::string() : found->second;
  };
  std::string realm = parameter("realm");
  // The realm is often another host (auth.docker.io), and gets the password: never in the clear, unless the registry
  // itself is.
  bool plain = realm.starts_with("http://") && scheme_ == "http";
  if (!realm.starts_with("https://") && !plain)
    return Error(Code::RegistryDenied,
                 fmt::format("{}: the registry names a place for tokens that is not https", endpoint_.host));
  std::string scope = parameter("scope");
  if (scope.empty()) scope = "repository:" + endpoint_.path + ":pull";
  HttpRequest request;
  request.url = fmt::format("{}{}scope={}", realm, realm.find('?') == std::string::npos ? '?' : '&', urlEncode(scope));
  if (!parameter("service").empty()) request.url += "&service=" + urlEncode(parameter("service"));
  if (!credentials_.username.empty()) {
    request.url += "&account=" + urlEncode(credentials_.username);
    request.authorization = "Basic " + base64(credentials_.username + ":" + credentials_.password);
  }
  request.limit = kLargestToken;
  HttpClient client;
  USERPOD_TRY(response, client.get(request, stop));
  if (response.status != 200) return refusal(response, "token");
  auto object = nlohmann::json::parse(response.body, nullptr, false);
  for (const char* name : {"token", "access_token"})
    if (object.is_object() && object.contains(name) && object[name].is_string()) {
      auto token = object[name].get<std::string>();
      bool sane = !token.empty() && token.find_first_of("\r\n") == std::string::npos;
      if (sane) return token;
    }
  return Error(Code::RegistryDenied, fmt::format("{}: the token server answers without a token", urlHost(realm)));
}

Status Registry::authenticate(const HttpResponse& refused, const std::string& used, const std::stop_token& stop) {
  std::lock_guard lock(mutex_);
  if (authorization_ != used) return {};  // another thread was faster
  const Challenge* basic = nullptr;
  auto [first, last] = refused.headers.equal_range("www-authenticate");
  std::vector<Challenge> challenges;
  for (auto header = first; header != last; ++header)
    for (auto& challenge : parseChallenges(header->second)) challenges.push_back(std::move(challenge));
  for (const auto& challenge : challenges) {
    if (challenge.scheme == "basic") basic = &challenge;
    if (challenge.scheme != "bearer") continue;
    USERPOD_TRY(token, fetchToken(challenge.parameters, stop));
    authorization_ = "Bearer " + token;
    return {};
  }
  if (basic == nullptr || credentials_.username.empty() || used.starts_with("Basic ")) return refusal(refused, "image");
  authorization_ = "Basic " + base64(credentials_.username + ":" + credentials_.password);
  return {};
}

Result<HttpResponse> Registry::request(HttpClient& client, HttpRequest request, const std::stop_token& stop) {
  for (int tries = 0;; ++tries) {
    {
      std::lock_guard lock(mutex_);
      request.authorization = authorization_;
    }
    USERPOD_TRY(response, client.get(request, stop));
    if (response.status != 401 || tries == 2) return std::move(response);
    USERPOD_CHECK(authenticate(response, request.authorization, stop));
  }
}

Result<FetchedManifest> Registry::manifest(const std::string& tagOrDigest) {
  HttpRequest wanted{.url = url("manifests", tagOrDigest), .accept = kAccepted, .limit = kLargestManifest};
  auto response = request(client_, wanted, stop_);
  bool speaksTls = !response ? response.error().code() == Code::RegistryUnreachable : response->status == 400;
  if (endpoint_.loopback && !endpoint_.insecure && scheme_ == "http" && speaksTls) {
    scheme_ = "https";
    wanted.url = url("manifests", tagOrDigest);
    auto second = request(client_, wanted, stop_);
    // Otherwise the first answer says more.
    if (second || second.error().code() != Code::RegistryUnreachable)
      response = std::move(second);
    else
      scheme_ = "http";
  }
  if (!response) return std::move(response).error();
  if (response->status != 200) return refusal(*response, tagOrDigest);
  FetchedManifest fetched{std::move(response->body), response->header("content-type"), {}};
  fetched.digest = manifestDigest(fetched.document);
  std::string claimed = isSha256Digest(tagOrDigest) ? tagOrDigest : response->header("docker-content-digest");
  if (isSha256Digest(claimed) && claimed != fetched.digest)
    return Error(Code::DigestMismatch, fmt::format("{}/{}: the manifest is {}, not {}", endpoint_.host, endpoint_.path,
                                                   fetched.digest, claimed));
  return fetched;
}

Status Registry::blob(const Descriptor& descriptor, const std::stop_token& stop,
                      std::function<Status(std::string_view)> sink) {
  HttpClient client;
  std::int64_t received = 0;
  HttpRequest wanted{.url = url("blobs", descriptor.digest)};
  wanted.sink = [&](std::string_view bytes) -> Status {
    received += static_cast<std::int64_t>(bytes.size());
    if (descriptor.size >= 0 && received > descriptor.size)
      return Error(Code::DigestMismatch, fmt::format("{}/{}: {} is longer than its {} bytes", endpoint_.host,
                                                     endpoint_.path, descriptor.digest, descriptor.size));
    return sink(bytes);
  };
  USERPOD_TRY(response, request(client, wanted, stop));
  if (response.status != 200) return refusal(response, "blob " + descriptor.digest);
  if (descriptor.size >= 0 && received != descriptor.size)
    return Error(Code::DigestMismatch, fmt::format("{}/{}: {} has {} bytes, not {}", endpoint_.host, endpoint_.path,
                                                   descriptor.digest, received, descriptor.size));
  return {};
}

Result<std::string> Registry::smallBlob(const Descriptor& descriptor) {
  std::string bytes;
  USERPOD_CHECK(blob(descriptor, stop_, [&](std::string_view part) -> Status {
    bytes += part;
    return {};
  }));
  auto digest = sha256Digest(bytes);
  if (digest != descriptor.digest)
    return Error(Code::DigestMismatch,
                 fmt::format("{}/{}: a blob is {}, not {}", endpoint_.host, endpoint_.path, digest, descriptor.digest));
  return bytes;
}

}  // namespace userpod::images

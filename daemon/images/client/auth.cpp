#include "daemon/images/client/auth.hpp"

#include <fmt/core.h>
#include <openssl/evp.h>

#include <algorithm>

#include "daemon/sys/log.hpp"

namespace userpod::images {

namespace {

using namespace std::chrono_literals;

constexpr std::size_t kLargestToken = 64U << 10;

std::string base64(std::string_view text) {
  std::string encoded((text.size() + 2) / 3 * 4, '\0');
  EVP_EncodeBlock(reinterpret_cast<unsigned char*>(encoded.data()), reinterpret_cast<const unsigned char*>(text.data()),
                  static_cast<int>(text.size()));
  return encoded;
}

// A line end in a header would begin another one.
bool fitsHeader(std::string_view text) {
  return text.find_first_of(std::string_view("\r\n\0", 3)) == std::string_view::npos;
}

}  // namespace

Authenticator::Authenticator(const Endpoint& endpoint, Credentials credentials, std::shared_ptr<ClientContext> context)
    : host_(endpoint.host),
      path_(endpoint.path),
      insecure_(endpoint.insecure),
      context_(std::move(context)),
      credentials_(std::move(credentials)),
      hasCredentials_(!credentials_.empty()) {
  if (!credentials_.registryToken.empty() && fitsHeader(credentials_.registryToken))
    authorization_ = "Bearer " + credentials_.registryToken;
}

// With an eye on the stop: the thread that fetches a token may hear of it later.
Result<std::unique_lock<std::timed_mutex>> Authenticator::lock(const std::stop_token& stop) {
  std::unique_lock lock(mutex_, std::defer_lock);
  while (!lock.try_lock_for(100ms))
    if (stop.stop_requested()) return Error(Code::Canceled, "canceled while waiting for a token of " + host_);
  return lock;
}

std::string Authenticator::parameter(const char* name) const {
  auto found = challenge_.find(name);
  return found == challenge_.end() ? std::string() : found->second;
}

std::string Authenticator::scope() const {
  auto scope = parameter("scope");
  return scope.empty() ? "repository:" + path_ + ":pull" : scope;
}

std::string Authenticator::basic() const {
  return "Basic " + base64(credentials_.username + ":" + credentials_.password);
}

// The realm is often another host (auth.docker.io), and gets the password: never in the clear, unless the registry
// itself is asked so, and then to a host that is no loopback only where the user calls the registry insecure.
Result<Url> Authenticator::realm() const {
  auto text = parameter("realm");
  if (text.starts_with('/') && !text.starts_with("//"))
    text = fmt::format("{}://{}{}", registry_.scheme, registry_.authority(), text);
  auto realm = parseUrl(text);
  if (!realm) return Error(Code::RegistryDenied, host_ + ": the registry names a place for tokens that is not https");
  if (realm->isTls()) return *std::move(realm);
  bool clear = !hasCredentials_ || insecure_ || isLoopbackHost(realm->host);
  if (registry_.isTls() || !clear)
    return Error(Code::RegistryDenied, fmt::format("{}: the registry names a place for tokens, {}, that is not https",
                                                   host_, realm->authority()));
  return *std::move(realm);
}

Result<HttpResponse> Authenticator::askByGet(const Url& realm, const std::stop_token& stop) {
  HttpRequest request;
  request.url = realm.text + (realm.text.find('?') == std::string::npos ? '?' : '&') + "scope=" + urlEncode(scope());
  if (auto service = parameter("service"); !service.empty()) request.url += "&service=" + urlEncode(service);
  if (!credentials_.username.empty()) {
    request.url += "&account=" + urlEncode(credentials_.username);
    request.authorization = basic();
  }
  request.limit = kLargestToken;
  return HttpClient(context_).get(request, stop);
}

// https://distribution.github.io/distribution/spec/auth/oauth/
Result<HttpResponse> Authenticator::askByPost(const Url& realm, const std::stop_token& stop) {
  HttpRequest request{.url = realm.text, .limit = kLargestToken};
  request.form = "client_id=userpod&service=" + urlEncode(parameter("service")) + "&scope=" + urlEncode(scope());
  if (!credentials_.identityToken.empty())
    request.form += "&grant_type=refresh_token&refresh_token=" + urlEncode(credentials_.identityToken);
  else
    request.form += "&grant_type=password&username=" + urlEncode(credentials_.username) +
                    "&password=" + urlEncode(credentials_.password);
  return HttpClient(context_).get(request, stop);
}

Status Authenticator::fetchToken(const std::stop_token& stop) {
  USERPOD_TRY(place, realm());
  bool refresh = !credentials_.identityToken.empty();
  auto asked = Clock::now();
  auto response = refresh ? askByPost(place, stop) : askByGet(place, stop);
  // Some token servers know OAuth2 alone.
  bool noGet = response && (response->status == 404 || response->status == 405);
  if (noGet && !refresh && !credentials_.username.empty()) response = askByPost(place, stop);
  if (!response) return std::move(response).error().wrap("token server of " + host_);
  std::string where = fmt::format("{}: the token server {}", host_, place.authority());
  auto message = registryMessage(response->body);
  if (response->status == 400 || response->status == 401 || response->status == 403) {
    if (!hasCredentials_) return Error(Code::RegistryAuthRequired, where + " demands credentials" + message);
    return Error(Code::RegistryDenied, where + " refuses the credentials" + message);
  }
  if (response->status != 200)
    return Error(Code::RegistryUnreachable, fmt::format("{} answers status {}{}", where, response->status, message));
  auto token = parseToken(response->body);
  if (!token) return Error(Code::RegistryDenied, where + " answers without a token");
  authorization_ = "Bearer " + token->token;
  if (refresh && !token->refreshToken.empty()) credentials_.identityToken = token->refreshToken;
  // Some time before its end: a request takes time, too.
  end_ = asked + token->lifetime - std::min<std::chrono::seconds>(token->lifetime / 5, 5s);
  return {};
}

Result<std::string> Authenticator::authorization(bool fresh, const std::stop_token& stop) {
  auto held = lock(stop);
  if (!held) return std::move(held).error();
  if (!fresh && Clock::now() >= end_) USERPOD_CHECK(fetchToken(stop));
  return authorization_;
}

Status Authenticator::answer(const HttpResponse& refused, const std::string& used, const std::stop_token& stop) {
  auto held = lock(stop);
  if (!held) return std::move(held).error();
  if (authorization_ != used) return {};  // another thread was faster
  if (!credentials_.registryToken.empty())
    return Error(Code::RegistryDenied, fmt::format("{}/{}: the registry refuses the registry token{}", host_, path_,
                                                   registryMessage(refused.body)));
  std::vector<Challenge> challenges;
  auto [first, last] = refused.headers.equal_range("www-authenticate");
  for (auto header = first; header != last; ++header)
    for (auto& challenge : parseChallenges(header->second)) challenges.push_back(std::move(challenge));
  auto offers = [&](std::string_view scheme) {
    return std::find_if(challenges.begin(), challenges.end(), [&](const auto& one) { return one.scheme == scheme; });
  };
  bool hasPassword = !credentials_.username.empty() && fitsHeader(credentials_.username + credentials_.password);
  bool basicHelps = hasPassword && offers("basic") != challenges.end() && !used.starts_with("Basic ");
  if (auto bearer = offers("bearer"); bearer != challenges.end()) {
    challenge_ = bearer->parameters;
    registry_ = refused.from;
    auto status = fetchToken(stop);
    if (status || !basicHelps || status.error().code() == Code::Canceled) return status;
    logInfo("{}; trying the password at the registry itself", status.error());
  }
  if (!basicHelps) {
    if (offers("basic") != challenges.end() && hasCredentials_ && credentials_.username.empty())
      return Error(Code::RegistryDenied, host_ + ": the registry takes a name and password alone, not a token");
    return refusal(refused, "image");
  }
  authorization_ = basic();
  end_ = Clock::time_point::max();
  return {};
}

Error Authenticator::refusal(const HttpResponse& response, std::string_view what) const {
  std::string where = fmt::format("{}/{}", host_, path_);
  std::string message = registryMessage(response.body);
  switch (response.status) {
    case 401:
      if (!hasCredentials_)
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

}  // namespace userpod::images

// What a registry is shown so that it lets the client in: Basic, bearer tokens of its token server (by GET, or by
// OAuth2 with an identity token or password), a token that is given.
// https://distribution.github.io/distribution/spec/auth/
#pragma once

#include <chrono>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <stop_token>
#include <string>

#include "daemon/images/client/answers.hpp"
#include "daemon/images/client/challenge.hpp"
#include "daemon/images/client/http.hpp"
#include "daemon/images/registries/access.hpp"
#include "daemon/images/registries/registries.hpp"

namespace userpod::images {

// Of one repository of one registry. Any thread: one of them fetches a token, the others wait for it.
class Authenticator {
 public:
  Authenticator(const Endpoint& endpoint, Credentials credentials, std::shared_ptr<ClientContext> context);

  // The header's value for the next request, or empty. A token that has run out is renewed first, unless it has just
  // been asked for: `fresh`.
  Result<std::string> authorization(bool fresh, const std::stop_token& stop);
  // After a 401 to a request with the value `used`: what the challenges ask for is there, or the error: RegistryDenied,
  // RegistryAuthRequired where no credentials are given, RegistryUnreachable of the token server.
  Status answer(const HttpResponse& refused, const std::string& used, const std::stop_token& stop);
  // The error that a refused answer is.
  Error refusal(const HttpResponse& response, std::string_view what) const;

 private:
  using Clock = std::chrono::steady_clock;
  using Parameters = std::map<std::string, std::string>;

  Result<std::unique_lock<std::timed_mutex>> lock(const std::stop_token& stop);
  Status fetchToken(const std::stop_token& stop);
  Result<HttpResponse> askByGet(const Url& realm, const std::stop_token& stop);
  Result<HttpResponse> askByPost(const Url& realm, const std::stop_token& stop);
  Result<Url> realm() const;
  std::string parameter(const char* name) const;
  std::string scope() const;
  std::string basic() const;

  const std::string host_, path_;  // of the endpoint
  const bool insecure_;
  const std::shared_ptr<ClientContext> context_;
  std::timed_mutex mutex_;  // guards what follows
  Credentials credentials_;
  bool hasCredentials_;
  std::string authorization_;
  Clock::time_point end_ = Clock::time_point::max();  // of the token
  Parameters challenge_;                              // by which the token was asked for
  Url registry_;                                      // that sent the challenge
};

}  // namespace userpod::images

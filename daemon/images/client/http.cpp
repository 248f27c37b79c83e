#include "daemon/images/client/http.hpp"

#include <curl/curl.h>
#include <fmt/core.h>

#include <condition_variable>
#include <cstdlib>
#include <mutex>

#include "daemon/images/client/answers.hpp"
#include "daemon/images/client/exchange.hpp"
#include "daemon/sys/log.hpp"

namespace userpod::images {

namespace {

constexpr int kMostRedirects = 10;
constexpr long kMostConnections = 4;  // kept: to a registry, its token server and where its blobs are

// false: the stop was requested meanwhile.
bool pause(std::chrono::milliseconds time, const std::stop_token& stop) {
  std::mutex mutex;
  std::condition_variable_any wake;
  std::unique_lock lock(mutex);
  wake.wait_for(lock, stop, time, [] { return false; });
  return !stop.stop_requested();
}

Error canceled(const Url& url) {
  return Error(Code::Canceled, "canceled while asking " + url.authority());
}

}  // namespace

std::string HttpResponse::header(const std::string& name) const {
  auto found = headers.find(name);
  return found == headers.end() ? std::string() : found->second;
}

HttpClient::HttpClient(std::shared_ptr<ClientContext> context) : context_(std::move(context)) {
  static const CURLcode initialized = curl_global_init(CURL_GLOBAL_DEFAULT);
  multi_ = initialized == CURLE_OK ? curl_multi_init() : nullptr;
  easy_ = initialized == CURLE_OK ? curl_easy_init() : nullptr;
  if (multi_ == nullptr || easy_ == nullptr) std::abort();  // no memory at all
  curl_multi_setopt(multi_, CURLMOPT_MAXCONNECTS, kMostConnections);
}

HttpClient::~HttpClient() {
  curl_easy_cleanup(easy_);
  curl_multi_cleanup(multi_);
}

Result<HttpClient::Attempt> HttpClient::once(HttpRequest& request, const Url& url, bool authorized, bool resume,
                                             const std::stop_token& stop) {
  std::shared_ptr<const HostTls> tls;
  std::string certificates;
  if (url.isTls()) {
    USERPOD_TRY(loaded, context_->tls.of(url));
    tls = std::move(loaded);
    certificates = context_->tls.directory(url);
  }
  Exchange exchange(request, url, *context_, validator_);
  USERPOD_CHECK(exchange.prepare(easy_, tls.get(), authorized, resume));
  auto code = exchange.run(multi_, stop);
  if (stop.stop_requested()) return canceled(url);
  return exchange.outcome(code, tls.get(), certificates);
}

Result<HttpClient::Attempt> HttpClient::follow(HttpRequest& request, const Url& start, bool resume,
                                               const std::stop_token& stop) {
  Url url = start;
  for (int hops = 0;; ++hops) {
    USERPOD_TRY(attempt, once(request, url, sameOrigin(url, start), resume, stop));
    if (attempt.trouble != Trouble::None || attempt.location.empty()) return std::move(attempt);
    if (!request.form.empty())
      return Error(Code::RegistryUnreachable,
                   fmt::format("{} redirects a request that holds a secret, which is not followed", url.authority()));
    if (hops == kMostRedirects)
      return Error(Code::RegistryUnreachable,
                   fmt::format("{} redirects more than {} times", start.authority(), kMostRedirects));
    USERPOD_TRY(next, redirectTarget(url, attempt.location));
    url = std::move(next);
  }
}

Result<HttpResponse> HttpClient::get(HttpRequest& request, const std::stop_token& stop) {
  auto start = parseUrl(request.url);
  if (!start) return Error(Code::InvalidArgument, "what is to be fetched has no URL of http or https");
  validator_.clear();
  bool resume = true;
  for (Retries retries;;) {
    auto before = request.delivered;
    USERPOD_TRY(attempt, follow(request, *start, resume, stop));
    auto trouble = attempt.trouble;
    if (trouble == Trouble::None) {
      if (attempt.response.status == 206) attempt.response.status = 200;
      return std::move(attempt.response);
    }
    if (request.probe && (trouble == Trouble::NoConnection || trouble == Trouble::NoTls))
      return HttpResponse{.status = 0, .from = *start};
    if (trouble == Trouble::WrongRange) resume = false;  // from the beginning, then
    std::string host = start->authority();
    if (attempt.response.from.authority() != host) host += ", redirected to " + attempt.response.from.authority();
    auto after = parseRetryAfter(attempt.response.header("retry-after"), std::time(nullptr));
    auto wait = retries.next(trouble, request.delivered - before, after);
    if (!wait) {
      if (attempt.likely) return *std::move(attempt.likely);
      std::string later;
      if (after && *after > Retries::kLongestWait) later = fmt::format("; try again in {} s", after->count());
      return Error(Code::RegistryUnreachable, fmt::format("registry {}: {}{}", host, attempt.why, later));
    }
    logInfo("registry {}: {}; trying again in {} ms", host, attempt.why, wait->count());
    if (!pause(*wait, stop)) return canceled(*start);
  }
}

}  // namespace userpod::images

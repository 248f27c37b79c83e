#include "daemon/images/client/http.hpp"

#include <curl/curl.h>
#include <fmt/core.h>

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <cstdlib>
#include <mutex>
#include <optional>

#include "daemon/sys/log.hpp"
#include "daemon/sys/util.hpp"

namespace userpod::images {

namespace {

using Clock = std::chrono::steady_clock;
using namespace std::chrono_literals;

constexpr auto kStall = 30s;
constexpr long kConnectMilliseconds = 10'000;
constexpr int kTriesWithoutProgress = 4;
constexpr int kTries = 20;
constexpr std::size_t kMostHeaderBytes = 64U << 10;
constexpr long kReceiveBuffer = 256L << 10;

bool isTransient(CURLcode code) {
  switch (code) {
    case CURLE_RECV_ERROR:
    case CURLE_SEND_ERROR:
    case CURLE_GOT_NOTHING:
    case CURLE_PARTIAL_FILE:
    case CURLE_OPERATION_TIMEDOUT:
    case CURLE_HTTP2:
    case CURLE_HTTP2_STREAM:
      return true;
    default:
      return false;
  }
}

bool isTransientStatus(long status) {
  return status == 429 || (status >= 500 && status != 501);
}

// false: the stop was requested meanwhile.
bool pause(std::chrono::milliseconds time, const std::stop_token& stop) {
  std::mutex mutex;
  std::condition_variable_any wake;
  std::unique_lock lock(mutex);
  wake.wait_for(lock, stop, time, [] { return false; });
  return !stop.stop_requested();
}

}  // namespace

std::string urlEncode(std::string_view text) {
  constexpr std::string_view kPlain = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~";
  std::string encoded;
  for (char c : text) {
    if (kPlain.find(c) != std::string_view::npos)
      encoded += c;
    else
      encoded += fmt::format("%{:02X}", static_cast<unsigned char>(c));
  }
  return encoded;
}

std::string urlHost(std::string_view url) {
  auto start = url.find("://");
  if (start != std::string_view::npos) url.remove_prefix(start + 3);
  url = url.substr(0, url.find_first_of("/?#"));
  if (auto at = url.rfind('@'); at != std::string_view::npos) url.remove_prefix(at + 1);
  return std::string(url);
}

std::string HttpResponse::header(const std::string& name) const {
  auto found = headers.find(name);
  return found == headers.end() ? std::string() : found->second;
}

struct HttpClient::Transfer {
  const HttpRequest& request;
  const std::stop_token& stop;
  CURL* handle = nullptr;
  curl_slist* headers = nullptr;
  HttpResponse response;
  std::size_t headerBytes = 0;
  std::uint64_t delivered = 0;  // to the sink, over all tries
  std::uint64_t skip = 0;       // of this answer: the server began before what is wanted
  bool checked = false;         // this answer's status and range
  bool deliver = false;         // its body is for the sink
  bool stalled = false;
  Clock::time_point lastByte;
  std::optional<Error> failure;  // of the sink, or a limit: no retry

  ~Transfer() { curl_slist_free_all(headers); }

  void startAttempt() {
    response = {};
    headerBytes = 0;
    skip = 0;
    checked = deliver = stalled = false;
    lastByte = Clock::now();
  }

  // At the first byte of a body: what the answer is and where it starts.
  bool check() {
    checked = true;
    curl_easy_getinfo(handle, CURLINFO_RESPONSE_CODE, &response.status);
    deliver = request.sink && (response.status == 200 || response.status == 206);
    if (!deliver) return true;
    if (response.status == 200) {
      skip = delivered;
      return true;
    }
    std::string expected = fmt::format("bytes {}-", delivered);
    if (response.header("content-range").starts_with(expected)) return true;
    failure =
        Error(Code::RegistryUnreachable, fmt::format("{} answered another range than asked for", urlHost(request.url)));
    return false;
  }

  bool take(std::string_view bytes) {
    if (!checked && !check()) return false;
    if (!deliver) {
      bool isError = response.status >= 400;
      std::size_t room = request.limit - std::min(request.limit, response.body.size());
      if (bytes.size() > room && !isError) {
        failure = Error(Code::LimitsExceeded,
                        fmt::format("{} answered more than {} bytes", urlHost(request.url), request.limit));
        return false;
      }
      response.body.append(bytes.substr(0, room));
      return true;
    }
    auto skipped = std::min<std::uint64_t>(skip, bytes.size());
    skip -= skipped;
    bytes.remove_prefix(skipped);
    if (bytes.empty()) return true;
    if (auto status = request.sink(bytes); !status) {
      failure = std::move(status).error();
      return false;
    }
    delivered += bytes.size();
    return true;
  }
};

HttpClient::HttpClient() {
  static const CURLcode initialized = curl_global_init(CURL_GLOBAL_DEFAULT);
  handle_ = initialized == CURLE_OK ? curl_easy_init() : nullptr;
  if (handle_ == nullptr) std::abort();  // no memory at all
}

HttpClient::~HttpClient() {
  curl_easy_cleanup(handle_);
}

std::size_t HttpClient::onBody(char* data, std::size_t size, std::size_t count, void* transfer) {
  auto* self = static_cast<Transfer*>(transfer);
  bool taken = self->take({data, size * count});
  // After the sink: the time it blocks because unpacking is slower than the network is no stall of the server's.
  self->lastByte = Clock::now();
  return taken ? size * count : 0;
}

std::size_t HttpClient::onHeader(char* data, std::size_t size, std::size_t count, void* transfer) {
  auto* self = static_cast<Transfer*>(transfer);
  std::string_view line(data, size * count);
  self->lastByte = Clock::now();
  self->headerBytes += line.size();
  if (self->headerBytes > kMostHeaderBytes) {
    self->failure = Error(Code::LimitsExceeded, urlHost(self->request.url) + " answered too long headers");
    return 0;
  }
  if (line.starts_with("HTTP/")) self->response.headers.clear();  // one more answer, after a redirect
  auto colon = line.find(':');
  if (colon != std::string_view::npos) {
    std::string name(line.substr(0, colon));
    std::transform(name.begin(), name.end(), name.begin(), [](unsigned char c) { return std::tolower(c); });
    self->response.headers.emplace(std::move(name), trim(line.substr(colon + 1)));
  }
  return line.size();
}

int HttpClient::onProgress(void* transfer, std::int64_t, std::int64_t, std::int64_t, std::int64_t) {
  auto* self = static_cast<Transfer*>(transfer);
  self->stalled = Clock::now() - self->lastByte > kStall;
  return self->stop.stop_requested() || self->stalled ? 1 : 0;
}

void HttpClient::prepare(Transfer& transfer) {
  curl_easy_reset(handle_);  // keeps connections
  bool plain = transfer.request.url.starts_with("http://");
  auto set = [this](CURLoption option, auto value) { curl_easy_setopt(handle_, option, value); };
  set(CURLOPT_URL, transfer.request.url.c_str());
  set(CURLOPT_PROTOCOLS_STR, plain ? "http,https" : "https");
  set(CURLOPT_REDIR_PROTOCOLS_STR, plain ? "http,https" : "https");
  set(CURLOPT_FOLLOWLOCATION, 1L);
  set(CURLOPT_MAXREDIRS, 5L);
  set(CURLOPT_NOSIGNAL, 1L);
  set(CURLOPT_CONNECTTIMEOUT_MS, kConnectMilliseconds);
  set(CURLOPT_SSLVERSION, static_cast<long>(CURL_SSLVERSION_TLSv1_2));
  set(CURLOPT_USERAGENT, "userpod/" USERPOD_VERSION);
  set(CURLOPT_BUFFERSIZE, kReceiveBuffer);
  set(CURLOPT_WRITEFUNCTION, &HttpClient::onBody);
  set(CURLOPT_WRITEDATA, &transfer);
  set(CURLOPT_HEADERFUNCTION, &HttpClient::onHeader);
  set(CURLOPT_HEADERDATA, &transfer);
  set(CURLOPT_NOPROGRESS, 0L);
  set(CURLOPT_XFERINFOFUNCTION, &HttpClient::onProgress);
  set(CURLOPT_XFERINFODATA, &transfer);
  auto add = [&transfer](const std::string& header) {
    transfer.headers = curl_slist_append(transfer.headers, header.c_str());
  };
  if (!transfer.request.accept.empty()) add("Accept: " + transfer.request.accept);
  // libcurl leaves a header of this name out when a redirect leads to another host, port or scheme.
  if (!transfer.request.authorization.empty()) add("Authorization: " + transfer.request.authorization);
  set(CURLOPT_HTTPHEADER, transfer.headers);
}

int HttpClient::attempt(Transfer& transfer) {
  transfer.startAttempt();
  std::string range = fmt::format("{}-", transfer.delivered);
  curl_easy_setopt(handle_, CURLOPT_RANGE, transfer.delivered > 0 ? range.c_str() : nullptr);
  CURLcode code = curl_easy_perform(handle_);
  if (!transfer.checked) curl_easy_getinfo(handle_, CURLINFO_RESPONSE_CODE, &transfer.response.status);
  return code;
}

Result<HttpResponse> HttpClient::get(const HttpRequest& request, const std::stop_token& stop) {
  Transfer transfer{.request = request, .stop = stop};
  transfer.handle = handle_;
  prepare(transfer);
  std::string host = urlHost(request.url);
  std::chrono::milliseconds delay = 250ms;
  int fruitless = 0;
  for (int tries = 1;; ++tries) {
    std::uint64_t before = transfer.delivered;
    auto code = static_cast<CURLcode>(attempt(transfer));
    if (transfer.failure) return *std::move(transfer.failure);
    if (stop.stop_requested()) return Error(Code::Canceled, "canceled while asking " + host);
    long status = transfer.response.status;
    if (code == CURLE_OK && !isTransientStatus(status)) {
      if (status == 206) transfer.response.status = 200;
      return std::move(transfer.response);
    }
    if (transfer.delivered > before) {
      fruitless = 0;
      delay = 250ms;
    }
    std::string why = transfer.stalled   ? "no data for 30 seconds"
                      : code == CURLE_OK ? fmt::format("it answers status {}", status)
                                         : std::string(curl_easy_strerror(code));
    bool again = code == CURLE_OK || transfer.stalled || isTransient(code);
    if (!again || ++fruitless >= kTriesWithoutProgress || tries >= kTries)
      return Error(Code::RegistryUnreachable, fmt::format("registry {}: {}", host, why));
    logInfo("registry {}: {}; trying again", host, why);
    if (!pause(delay, stop)) return Error(Code::Canceled, "canceled while asking " + host);
    delay *= 3;
  }
}

}  // namespace userpod::images

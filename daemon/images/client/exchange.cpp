#include "daemon/images/client/exchange.hpp"

#include <fmt/core.h>

#include <algorithm>
#include <cctype>

#include "daemon/images/client/answers.hpp"
#include "daemon/sys/util.hpp"

namespace userpod::images {

namespace {

using namespace std::chrono_literals;

constexpr long kConnectMilliseconds = 10'000;
constexpr std::size_t kMostHeaderBytes = 64U << 10;
constexpr long kReceiveBuffer = 256L << 10;
constexpr int kLookMilliseconds = 250;    // for stalls; the stop wakes at once
constexpr std::uint64_t kSlowest = 1024;  // bytes a second, on average

}  // namespace

HttpClient::Exchange::Exchange(HttpRequest& request, const Url& url, const ClientContext& context,
                               std::string& validator)
    : request_(request), url_(url), context_(context), validator_(validator) {
  response_.from = url;
}

HttpClient::Exchange::~Exchange() {
  curl_slist_free_all(headers_);
}

void HttpClient::Exchange::addHeader(const std::string& line) {
  headers_ = curl_slist_append(headers_, line.c_str());
}

CURLcode HttpClient::Exchange::onTls(CURL*, void* context, void* tls) {
  static_cast<const HostTls*>(tls)->apply(static_cast<SSL_CTX*>(context));
  return CURLE_OK;
}

void HttpClient::Exchange::prepareConnection(const HostTls* tls) {
  auto set = [this](CURLoption option, auto value) { curl_easy_setopt(easy_, option, value); };
  set(CURLOPT_NOSIGNAL, 1L);
  set(CURLOPT_CONNECTTIMEOUT_MS, kConnectMilliseconds);
  set(CURLOPT_QUICK_EXIT, 1L);  // a stop does not wait for the thread that asks for an address
  set(CURLOPT_PROXY, proxy_.c_str());
  set(CURLOPT_NOPROXY, "");  // is decided: not by libcurl's reading of the environment
  set(CURLOPT_SUPPRESS_CONNECT_HEADERS, 1L);
  if (tls == nullptr) return;
  bool verified = url_.host != context_.unverifiedHost;
  set(CURLOPT_HTTP_VERSION, static_cast<long>(CURL_HTTP_VERSION_2TLS));
  set(CURLOPT_SSLVERSION, static_cast<long>(CURL_SSLVERSION_TLSv1_2));
  set(CURLOPT_SSL_VERIFYPEER, verified ? 1L : 0L);
  set(CURLOPT_SSL_VERIFYHOST, verified ? 2L : 0L);
  // The authorities come by onTls().
  set(CURLOPT_CAINFO, nullptr);
  set(CURLOPT_CAPATH, nullptr);
  set(CURLOPT_CA_CACHE_TIMEOUT, 0L);
  set(CURLOPT_SSL_CTX_FUNCTION, &Exchange::onTls);
  set(CURLOPT_SSL_CTX_DATA, const_cast<HostTls*>(tls));
}

Status HttpClient::Exchange::prepare(CURL* easy, const HostTls* tls, bool authorized, bool resume) {
  easy_ = easy;
  curl_easy_reset(easy_);
  USERPOD_TRY(proxy, proxyFor(context_.options.proxies, url_));
  proxy_ = std::move(proxy);
  prepareConnection(tls);
  auto set = [this](CURLoption option, auto value) { curl_easy_setopt(easy_, option, value); };
  set(CURLOPT_URL, url_.text.c_str());
  set(CURLOPT_PROTOCOLS_STR, "http,https");
  set(CURLOPT_USERAGENT, "userpod/" USERPOD_VERSION);
  set(CURLOPT_BUFFERSIZE, kReceiveBuffer);
  set(CURLOPT_ERRORBUFFER, text_);
  set(CURLOPT_WRITEFUNCTION, &Exchange::onBody);
  set(CURLOPT_WRITEDATA, this);
  set(CURLOPT_HEADERFUNCTION, &Exchange::onHeader);
  set(CURLOPT_HEADERDATA, this);
  if (!request_.form.empty()) {
    set(CURLOPT_POSTFIELDSIZE_LARGE, static_cast<curl_off_t>(request_.form.size()));
    set(CURLOPT_POSTFIELDS, request_.form.c_str());
  }
  if (!request_.accept.empty()) addHeader("Accept: " + request_.accept);
  if (authorized && !request_.authorization.empty()) addHeader("Authorization: " + request_.authorization);
  if (resume && request_.delivered > 0) {
    range_ = fmt::format("{}-", request_.delivered);
    set(CURLOPT_RANGE, range_.c_str());
    if (!validator_.empty()) addHeader("If-Range: " + validator_);
  }
  set(CURLOPT_HTTPHEADER, headers_);
  return {};
}

CURLcode HttpClient::Exchange::run(CURLM* multi, const std::stop_token& stop) {
  std::stop_callback wake(stop, [multi] { curl_multi_wakeup(multi); });
  windowStart_ = lastByte_ = Clock::now();
  curl_multi_add_handle(multi, easy_);
  CURLcode code = CURLE_ABORTED_BY_CALLBACK;
  for (int running = 1; running > 0 && !stop.stop_requested() && !stalls();) {
    if (curl_multi_perform(multi, &running) != CURLM_OK) break;
    if (running > 0) curl_multi_poll(multi, nullptr, 0, kLookMilliseconds, nullptr);
  }
  int left = 0;
  while (CURLMsg* message = curl_multi_info_read(multi, &left))
    if (message->msg == CURLMSG_DONE) code = message->data.result;
  if (!begun_ && code == CURLE_OK) begin();  // an answer without a body
  curl_easy_getinfo(easy_, CURLINFO_RESPONSE_CODE, &response_.status);
  curl_multi_remove_handle(multi, easy_);
  return code;
}

// Nothing for the whole time, or too little over it.
bool HttpClient::Exchange::stalls() {
  if (context_.options.stallSeconds == 0) return false;
  std::chrono::seconds time(context_.options.stallSeconds);
  auto now = Clock::now();
  if (now - lastByte_ >= time) return silent_ = stalled_ = true;
  if (now - windowStart_ < time) return false;
  stalled_ = windowBytes_ < kSlowest * context_.options.stallSeconds;
  windowStart_ = now;
  windowBytes_ = 0;
  return stalled_;
}

std::size_t HttpClient::Exchange::onBody(char* data, std::size_t size, std::size_t count, void* self) {
  auto& exchange = *static_cast<Exchange*>(self);
  auto before = Clock::now();
  bool taken = exchange.take({data, size * count});
  // The time for which the sink blocks, because unpacking is slower than the network, is no stall of the server's.
  exchange.lastByte_ = Clock::now();
  exchange.windowStart_ += exchange.lastByte_ - before;
  exchange.windowBytes_ += size * count;
  return taken ? size * count : 0;
}

std::size_t HttpClient::Exchange::onHeader(char* data, std::size_t size, std::size_t count, void* self) {
  return static_cast<Exchange*>(self)->takeHeader({data, size * count}) ? size * count : 0;
}

bool HttpClient::Exchange::takeHeader(std::string_view line) {
  lastByte_ = Clock::now();
  headerBytes_ += line.size();
  if (headerBytes_ > kMostHeaderBytes) {
    failure_ = Error(Code::LimitsExceeded, url_.authority() + " answered too long headers");
    return false;
  }
  if (line.starts_with("HTTP/")) response_.headers.clear();  // after an interim answer
  auto colon = line.find(':');
  if (colon == std::string_view::npos) return true;
  std::string name(line.substr(0, colon));
  std::transform(name.begin(), name.end(), name.begin(), [](unsigned char c) { return std::tolower(c); });
  response_.headers.emplace(std::move(name), trim(line.substr(colon + 1)));
  return true;
}

// At the first byte of a body: what the answer is and where it starts.
bool HttpClient::Exchange::begin() {
  begun_ = true;
  curl_easy_getinfo(easy_, CURLINFO_RESPONSE_CODE, &response_.status);
  delivers_ = request_.sink && (response_.status == 200 || response_.status == 206);
  if (!delivers_) return true;
  if (response_.status == 200) skip_ = request_.delivered;
  if (response_.status == 206) {
    auto range = parseContentRange(response_.header("content-range"));
    bool fits = range && range->first == request_.delivered &&
                (!range->total || !request_.wholeSize || *range->total == *request_.wholeSize);
    wrongRange_ = !fits;
  }
  if (wrongRange_) return delivers_ = false;
  auto tag = response_.header("etag");
  validator_ = tag.starts_with('"') ? tag : std::string();  // a weak one says nothing of bytes
  return true;
}

bool HttpClient::Exchange::take(std::string_view bytes) {
  if (!begun_ && !begin()) return false;
  if (delivers_) return deliver(bytes);
  std::size_t room = request_.limit - std::min(request_.limit, response_.body.size());
  if (bytes.size() > room && response_.status < 300) {
    failure_ =
        Error(Code::LimitsExceeded, fmt::format("{} answered more than {} bytes", url_.authority(), request_.limit));
    return false;
  }
  response_.body.append(bytes.substr(0, room));
  // Of a refusal the beginning is enough; its end may never come.
  bodyCut_ = bytes.size() > room;
  return !bodyCut_;
}

bool HttpClient::Exchange::deliver(std::string_view bytes) {
  auto skipped = std::min<std::uint64_t>(skip_, bytes.size());
  skip_ -= skipped;
  bytes.remove_prefix(skipped);
  if (bytes.empty()) return true;
  if (auto status = request_.sink(bytes); !status) {
    failure_ = std::move(status).error();
    return false;
  }
  request_.delivered += bytes.size();
  return true;
}

Trouble HttpClient::Exchange::troubleOf(CURLcode code) const {
  curl_off_t connected = 0;
  curl_easy_getinfo(easy_, CURLINFO_PRETRANSFER_TIME_T, &connected);
  long tunnel = 0;
  curl_easy_getinfo(easy_, CURLINFO_HTTP_CONNECTCODE, &tunnel);
  // A proxy's answer. Some let through nothing but port 443: what is there may still be asked in clear.
  if (tunnel >= 300) return tunnel >= 500 || request_.probe ? Trouble::NoConnection : Trouble::None;
  switch (code) {
    case CURLE_COULDNT_RESOLVE_HOST:
    case CURLE_COULDNT_RESOLVE_PROXY:
    case CURLE_COULDNT_CONNECT:
    case CURLE_PROXY:
    case CURLE_INTERFACE_FAILED:
      return Trouble::NoConnection;
    case CURLE_OPERATION_TIMEDOUT:
      return connected == 0 ? Trouble::NoConnection : Trouble::Broken;
    case CURLE_RECV_ERROR:
    case CURLE_SEND_ERROR:
    case CURLE_GOT_NOTHING:
    case CURLE_PARTIAL_FILE:
    case CURLE_HTTP2:
    case CURLE_HTTP2_STREAM:
    case CURLE_SSL_CONNECT_ERROR:
      return Trouble::Broken;
    default:
      return Trouble::None;
  }
}

std::string HttpClient::Exchange::textOf(CURLcode code) const {
  long tunnel = 0;
  curl_easy_getinfo(easy_, CURLINFO_HTTP_CONNECTCODE, &tunnel);
  std::string by = proxy_.empty() ? "" : fmt::format(" (by the proxy {})", proxyName(proxy_));
  if (tunnel == 407 || response_.status == 407)
    return fmt::format("the proxy {} demands other credentials", proxyName(proxy_));
  if (tunnel >= 300) return fmt::format("the proxy {} answers status {}", proxyName(proxy_), tunnel);
  return excerpt(text_[0] == '\0' ? curl_easy_strerror(code) : text_, 200) + by;
}

TlsFailure HttpClient::Exchange::tlsFailure(CURLcode code, const HostTls& tls, const std::string& certificates) const {
  TlsFailure failure{.tls = tls, .host = url_.authority(), .directory = certificates};
  curl_easy_getinfo(easy_, CURLINFO_SSL_VERIFYRESULT, &failure.verification);
  failure.peerRefused = code == CURLE_PEER_FAILED_VERIFICATION;
  if (code != CURLE_OK) failure.text = text_;
  // nginx says it by HTTP.
  if (response_.status == 400 && response_.body.find("SSL certificate") != std::string::npos)
    failure.text = "certificate required";
  return failure;
}

// The attempt, for what kind of failure the connection or TLS is.
Result<HttpClient::Attempt> HttpClient::Exchange::failed(CURLcode code, const HostTls* tls,
                                                         const std::string& certificates) const {
  Attempt attempt{.trouble = troubleOf(code), .why = textOf(code)};
  if (tls != nullptr) {
    auto failure = tlsFailure(code, *tls, certificates);
    if (auto error = failure.explain()) return *std::move(error);
    if (code == CURLE_SSL_CONNECT_ERROR && failure.noTls(request_.probe))
      return Attempt{.trouble = Trouble::NoTls, .why = "what answers there does not speak TLS"};
    // It has hung up before it could be told why: by TLS 1.3 a client certificate is looked at after the handshake.
    if (attempt.trouble == Trouble::Broken && headerBytes_ == 0 && tls->wasAsked())
      attempt.likely = failure.clientError();
  }
  if (attempt.trouble == Trouble::None) return Error(Code::RegistryUnreachable, url_.authority() + ": " + attempt.why);
  return attempt;
}

Result<HttpClient::Attempt> HttpClient::Exchange::outcome(CURLcode code, const HostTls* tls,
                                                          const std::string& certificates) {
  if (failure_) return *std::move(failure_);
  if (bodyCut_) code = CURLE_OK;
  if (response_.status == 407) return Error(Code::RegistryUnreachable, url_.authority() + ": " + textOf(code));
  Attempt attempt;
  if (wrongRange_ || response_.status == 416) {
    attempt.trouble = Trouble::WrongRange;
    attempt.why = "it answers another range than asked for";
  } else if (stalled_) {
    attempt.trouble = Trouble::Stalled;
    attempt.why = fmt::format("{} for {} s", silent_ ? "no data" : "almost no data", context_.options.stallSeconds);
  } else if (code != CURLE_OK) {
    USERPOD_TRY(failure, failed(code, tls, certificates));
    attempt = std::move(failure);
  } else if (response_.status == 400 && tls != nullptr) {
    if (auto error = tlsFailure(code, *tls, certificates).explain()) return *std::move(error);
  } else if (response_.status == 408 || response_.status == 429 ||
             (response_.status >= 500 && response_.status != 501)) {
    attempt.trouble = Trouble::BadStatus;
    attempt.why = fmt::format("it answers status {}{}", response_.status, registryMessage(response_.body));
  } else if (delivers_ && request_.wholeSize && request_.delivered < *request_.wholeSize &&
             response_.header("content-length").empty()) {
    attempt.trouble = Trouble::Broken;
    attempt.why = "the answer ended too early";
  }
  if (char* location = nullptr; curl_easy_getinfo(easy_, CURLINFO_REDIRECT_URL, &location) == CURLE_OK && location)
    attempt.location = location;
  attempt.response = std::move(response_);
  return attempt;
}

}  // namespace userpod::images

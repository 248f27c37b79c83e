// One request and its answer, over libcurl: the callbacks, and what they check.
#pragma once

#include <curl/curl.h>

#include <chrono>
#include <optional>
#include <stop_token>
#include <string>
#include <string_view>

#include "daemon/images/client/http.hpp"

namespace userpod::images {

class HttpClient::Exchange {
 public:
  // All outlive it. `validator` is the ETag for If-Range, and becomes that of the answer.
  Exchange(HttpRequest& request, const Url& url, const ClientContext& context, std::string& validator);
  ~Exchange();

  // Errors: what is wrong with proxy or certificates.
  Status prepare(CURL* easy, const HostTls* tls, bool authorized, bool resume);
  // Until the answer has ended or failed, a stall, or the stop. CURLE_ABORTED_BY_CALLBACK: the latter two.
  CURLcode run(CURLM* multi, const std::stop_token& stop);
  // What came of it, after run().
  Result<Attempt> outcome(CURLcode code, const HostTls* tls, const std::string& certificates);

 private:
  using Clock = std::chrono::steady_clock;

  static std::size_t onBody(char* data, std::size_t size, std::size_t count, void* self);
  static std::size_t onHeader(char* data, std::size_t size, std::size_t count, void* self);
  static CURLcode onTls(CURL* easy, void* context, void* tls);
  void addHeader(const std::string& line);
  void prepareConnection(const HostTls* tls);
  bool take(std::string_view bytes);
  bool begin();
  bool deliver(std::string_view bytes);
  bool takeHeader(std::string_view line);
  bool stalls();
  TlsFailure tlsFailure(CURLcode code, const HostTls& tls, const std::string& certificates) const;
  Result<Attempt> failed(CURLcode code, const HostTls* tls, const std::string& certificates) const;
  Trouble troubleOf(CURLcode code) const;
  std::string textOf(CURLcode code) const;

  HttpRequest& request_;
  const Url& url_;
  const ClientContext& context_;
  std::string& validator_;
  CURL* easy_ = nullptr;
  curl_slist* headers_ = nullptr;
  std::string proxy_, range_;
  char text_[CURL_ERROR_SIZE] = "";

  HttpResponse response_;
  std::size_t headerBytes_ = 0;
  std::uint64_t skip_ = 0;  // of this answer: the server began before what is wanted
  bool begun_ = false;      // the status and range are checked
  bool delivers_ = false;   // the body is for the sink
  bool stalled_ = false;
  bool silent_ = false;  // the stall: nothing at all
  bool wrongRange_ = false;
  bool bodyCut_ = false;           // more came than an error message needs
  std::optional<Error> failure_;   // of the sink, or a limit: no retry
  Clock::time_point windowStart_;  // for the average rate
  Clock::time_point lastByte_;
  std::uint64_t windowBytes_ = 0;
};

}  // namespace userpod::images

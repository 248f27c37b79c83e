// HTTP for registries: libcurl with its limits, retries and resumption.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <stop_token>
#include <string>
#include <string_view>
#include <vector>

#include "daemon/sys/error.hpp"

namespace userpod::images {

struct HttpRequest {
  std::string url;
  std::string accept;             // header value; empty: none
  std::string authorization;      // header value; never sent to another host after a redirect, nor logged
  std::size_t limit = 64U << 10;  // of the body, unless there is a sink: more is LimitsExceeded
  // Gets the body of a 200 answer in order, once each byte, over all resumed transfers; an error from it ends the
  // request.
  std::function<Status(std::string_view)> sink;
};

struct HttpResponse {
  long status = 0;
  std::multimap<std::string, std::string> headers;    // names in lower case; of the last answer after redirects
  std::string body;                                   // empty when a sink took it
  std::string header(const std::string& name) const;  // first value, or empty
};

// One connection at a time, kept between requests. One thread. Certificates are verified against the system's; plain
// HTTP only where the URL says so, and never after a redirect from HTTPS. RegistryUnreachable (after retries with
// growing pauses: transport errors, 429 and 5xx) names the host; 10 s to connect, 30 s without a byte. Canceled within
// a second.
class HttpClient {
 public:
  HttpClient();
  ~HttpClient();
  HttpClient(const HttpClient&) = delete;
  HttpClient& operator=(const HttpClient&) = delete;

  Result<HttpResponse> get(const HttpRequest& request, const std::stop_token& stop);

 private:
  struct Transfer;
  static std::size_t onBody(char* data, std::size_t size, std::size_t count, void* transfer);
  static std::size_t onHeader(char* data, std::size_t size, std::size_t count, void* transfer);
  static int onProgress(void* transfer, std::int64_t, std::int64_t, std::int64_t, std::int64_t);
  int attempt(Transfer& transfer);  // CURLcode
  void prepare(Transfer& transfer);

  void* handle_;  // CURL*
};

// Percent-encodes everything but letters, digits and "-._~".
std::string urlEncode(std::string_view text);
// "host:port" of a URL, for messages.
std::string urlHost(std::string_view url);

}  // namespace userpod::images

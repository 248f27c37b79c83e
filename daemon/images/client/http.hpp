// HTTP for registries: libcurl with its limits, our own redirects, retries and resumption.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <stop_token>
#include <string>
#include <string_view>

#include "daemon/images/client/proxies.hpp"
#include "daemon/images/client/retries.hpp"
#include "daemon/images/client/tls.hpp"
#include "daemon/images/client/url.hpp"
#include "daemon/sys/error.hpp"

namespace userpod::images {

struct ClientOptions {
  unsigned stallSeconds = 30;  // in which less than 1 KiB a second means a new try; 0: never
  Proxies proxies = environmentProxies();
};

// What the clients of one registry share. Any thread.
struct ClientContext {
  ClientContext(ClientOptions options, Places places) : options(std::move(options)), tls(std::move(places)) {}
  const ClientOptions options;
  std::string unverifiedHost;  // whose certificates are not verified, on any port; set before the first request
  TlsHosts tls;
};

struct HttpRequest {
  std::string url;
  std::string accept;             // header value; empty: none
  std::string authorization;      // header value; never sent to another origin after a redirect, nor logged
  std::string form;               // if any: POST, of type application/x-www-form-urlencoded; then redirects are errors
  std::size_t limit = 64U << 10;  // of the body, unless there is a sink: more is LimitsExceeded
  // Gets the body of a 200 answer in order, once each byte, over all resumed transfers; an error from it ends the
  // request.
  std::function<Status(std::string_view)> sink;
  std::uint64_t delivered = 0;             // bytes that the sink has: the same request, given again, goes on there
  std::optional<std::uint64_t> wholeSize;  // with a sink: an end before it, where the server told no length, is a
                                           // broken connection
  bool probe = false;  // where no connection comes about, or TLS is not spoken: an answer of status 0, and no retry
};

struct HttpResponse {
  long status = 0;
  std::multimap<std::string, std::string> headers;    // names in lower case; of the last answer after redirects
  std::string body;                                   // empty when a sink took it
  Url from;                                           // who answered, in the end
  std::string header(const std::string& name) const;  // first value, or empty
};

// One connection at a time, kept between requests. One thread. Certificates are verified by the system's authorities
// and certs.d of each host asked. RegistryUnreachable (after retries, see retries.hpp) names the host; 10 s to connect.
// RegistryAuthRequired or RegistryDenied where a client certificate is demanded or refused, ConfigInvalid for files and
// proxies that are no use. Canceled at once. The process must ignore SIGPIPE: OpenSSL writes to sockets. Queries of
// URLs, which may be signed, are in no log and no error.
class HttpClient {
 public:
  explicit HttpClient(std::shared_ptr<ClientContext> context);
  ~HttpClient();
  HttpClient(const HttpClient&) = delete;
  HttpClient& operator=(const HttpClient&) = delete;

  Result<HttpResponse> get(HttpRequest& request, const std::stop_token& stop);

 private:
  class Exchange;
  struct Attempt {
    HttpResponse response;
    Trouble trouble = Trouble::None;
    std::string why;              // of the trouble
    std::string location;         // absolute, of a redirect
    std::optional<Error> likely;  // what the trouble comes from, if it stays
  };
  Result<Attempt> follow(HttpRequest& request, const Url& start, bool resume, const std::stop_token& stop);
  Result<Attempt> once(HttpRequest& request, const Url& url, bool authorized, bool resume, const std::stop_token& stop);

  std::shared_ptr<ClientContext> context_;
  void* multi_;            // CURLM*: keeps the connections
  void* easy_;             // CURL*
  std::string validator_;  // the ETag of what is being resumed
};

}  // namespace userpod::images

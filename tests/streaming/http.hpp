// The HTTP/1.1 that comes before a stream: URLs, requests as clients of Kubernetes send them and broken ones, answers.
// All of tests/streaming throws Lost (a std::runtime_error) where a connection fails; any thread.
#pragma once

#include <chrono>
#include <cstdint>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "daemon/sys/fd.hpp"

namespace userpod::streamtest {

using std::chrono::milliseconds;
using Headers = std::vector<std::pair<std::string, std::string>>;

class Lost : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

struct Url {
  std::string scheme;
  std::string host;
  std::uint16_t port = 0;
  std::string path;  // with the query
};
Url parseUrl(const std::string& text);  // throws std::invalid_argument

struct Request {
  std::string method = "POST";
  Headers headers;  // beside Host
  std::string version = "HTTP/1.1";
};
// As client-go's SPDY executor asks, each protocol in a header line of its own.
Request spdyRequest(const std::vector<std::string>& protocols);
// As client-go's WebSocket executor asks: the protocols in one line, none without any.
Request webSocketRequest(const std::vector<std::string>& protocols);
Request without(Request request, const std::string& header);
Request replaced(Request request, const std::string& header, const std::string& value);

struct Answer {
  int status = 0;  // 0: the connection was closed without an answer
  Headers headers;
  std::string body;

  std::vector<std::string> all(const std::string& header) const;
  std::string one(const std::string& header) const;  // "" without it
};

struct Opened {
  UniqueFd socket;  // blocking; none when the answer was no 101
  Answer answer;
  std::string rest;  // what came after the head
};

UniqueFd connectTo(const Url& url);
// Sends the request and reads the answer: of 101 the head, of others all.
Opened ask(const std::string& url, const Request& request);
// The same for any bytes in the place of a request.
Opened askBytes(const std::string& url, const std::string& bytes);
std::string requestText(const Url& url, const Request& request);

// Of RFC 6455: what Sec-WebSocket-Accept must be for a key.
std::string acceptOf(const std::string& key);
std::string base64(std::string_view bytes);
std::string fromBase64(std::string_view text);  // throws std::invalid_argument

}  // namespace userpod::streamtest

// HTTP/1.1 as far as the upgrade: reading a request's head, and answering it.
#pragma once

#include <boost/beast/http/empty_body.hpp>
#include <boost/beast/http/message.hpp>
#include <functional>
#include <string>
#include <vector>

#include "daemon/streaming/asio.hpp"
#include "daemon/sys/error.hpp"

namespace userpod::streaming {

namespace http = boost::beast::http;
using Request = http::request<http::empty_body>;

// Reads the head of one request. `done` is called once: with the request and what came behind it, or, after an answer
// was sent where one could be, without. The socket closes with the reader.
class HeadReader : public std::enable_shared_from_this<HeadReader> {
 public:
  using Done = std::function<void(Socket socket, std::string early, Request request)>;
  HeadReader(Socket socket, Done done);
  ~HeadReader();

  void start();
  void cancel();  // closes the connection without an answer

 private:
  struct Parser;
  void parsed(ErrorCode error);

  Socket socket_;
  asio::steady_timer timer_;
  std::unique_ptr<Parser> parser_;
  Done done_;
};

// Whether the request can be upgraded to `protocol` ("SPDY/3.1", "websocket").
bool upgrades(const Request& request, std::string_view protocol);
// Of a header that may come in several lines and as comma-separated lists: all its values, in order.
std::vector<std::string> values(const Request& request, std::string_view header);

// The whole answer, and the end of the connection. Extra headers without line ends.
void answer(Socket socket, http::status status, const std::string& text, const std::vector<std::string>& headers = {});
// 101 with the headers of the upgrade; the socket takes the new protocol afterwards. False: the client is gone.
bool switchProtocols(Socket& socket, std::string_view protocol, const std::vector<std::string>& headers);

}  // namespace userpod::streaming

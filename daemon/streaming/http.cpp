#include "daemon/streaming/http.hpp"

#include <fmt/core.h>
#include <sys/socket.h>

#include <boost/beast/core/flat_buffer.hpp>
#include <boost/beast/core/string.hpp>
#include <boost/beast/http/parser.hpp>
#include <boost/beast/http/read.hpp>
#include <boost/beast/http/rfc7230.hpp>
#include <nlohmann/json.hpp>

namespace userpod::streaming {
namespace {

namespace beast = boost::beast;

constexpr std::uint32_t kMaxHead = 16 << 10;
constexpr std::chrono::seconds kHeadTime{30};
constexpr std::chrono::seconds kAnswerTime{5};

std::string_view view(beast::string_view text) {
  return {text.data(), text.size()};
}

// Answered connections that wait for their clients' end, of the one thread that answers. Others are closed at once.
constexpr int kMaxDraining = 256;
int draining = 0;

// What the other side still sends is read and thrown away for a moment: closing before it has ended would reset the
// connection and lose the answer.
void drain(std::shared_ptr<Socket> socket, std::shared_ptr<asio::steady_timer> timer) {
  socket->async_wait(Socket::wait_read, [socket, timer](ErrorCode error) {
    std::array<char, 4096> ignored;
    if (error || ::recv(socket->native_handle(), ignored.data(), ignored.size(), MSG_DONTWAIT) <= 0) {
      timer->cancel();
      --draining;
      return;
    }
    drain(socket, timer);
  });
}

}  // namespace

struct HeadReader::Parser {
  beast::flat_buffer buffer{kMaxHead + 1};
  http::request_parser<http::empty_body> parser;
};

HeadReader::HeadReader(Socket socket, Done done)
    : socket_(std::move(socket)),
      timer_(socket_.get_executor()),
      parser_(std::make_unique<Parser>()),
      done_(std::move(done)) {
  parser_->parser.header_limit(kMaxHead);
}

HeadReader::~HeadReader() = default;

void HeadReader::start() {
  timer_.expires_after(kHeadTime);
  timer_.async_wait([weak = weak_from_this()](ErrorCode error) {
    auto self = weak.lock();
    if (self && !error) self->cancel();
  });
  http::async_read_header(socket_, parser_->buffer, parser_->parser,
                          [self = shared_from_this()](ErrorCode error, std::size_t) { self->parsed(error); });
}

void HeadReader::cancel() {
  ErrorCode ignored;
  socket_.close(ignored);
}

void HeadReader::parsed(ErrorCode error) {
  timer_.cancel();
  auto refuse = [&](http::status status, const std::string& text) {
    answer(std::move(socket_), status, text);
    done_(Socket(timer_.get_executor()), {}, {});
  };
  if (error == http::error::header_limit || error == http::error::buffer_overflow)
    return refuse(http::status::request_header_fields_too_large,
                  fmt::format("the request's head is larger than {} bytes", kMaxHead));
  bool gone = error == http::error::end_of_stream || error == http::error::partial_message ||
              (error && error.category() == boost::system::system_category());
  if (gone) return done_(Socket(timer_.get_executor()), {}, {});
  if (error) return refuse(http::status::bad_request, "this is not an HTTP/1.1 request: " + error.message());
  auto& parser = parser_->parser;
  if (parser.chunked() || parser.content_length().value_or(0) > 0)
    return refuse(http::status::bad_request, "a request to upgrade has no body");
  auto rest = parser_->buffer.data();
  std::string early(static_cast<const char*>(rest.data()), rest.size());
  Request request = parser.release();
  parser_.reset();  // the buffer's memory
  done_(std::move(socket_), std::move(early), std::move(request));
}

bool upgrades(const Request& request, std::string_view protocol) {
  auto names = [&](std::string_view header, std::string_view wanted) {
    for (const auto& value : values(request, header))
      if (beast::iequals(value, wanted)) return true;
    return false;
  };
  return names("Connection", "upgrade") && names("Upgrade", protocol);
}

std::vector<std::string> values(const Request& request, std::string_view header) {
  std::vector<std::string> all;
  auto [begin, end] = request.equal_range(header);
  for (auto line = begin; line != end; ++line) {
    std::string_view rest = view(line->value());
    while (!rest.empty()) {
      auto comma = std::min(rest.find(','), rest.size());
      auto value = rest.substr(0, comma);
      rest.remove_prefix(std::min(comma + 1, rest.size()));
      auto first = value.find_first_not_of(" \t");
      if (first == std::string_view::npos) continue;
      all.emplace_back(value.substr(first, value.find_last_not_of(" \t") - first + 1));
    }
  }
  return all;
}

// The body is a Status of Kubernetes. Its clients try to read one in whatever text comes; they take a plain text with a
// colon in it for one without a message, and say nothing.
void answer(Socket socket, http::status status, const std::string& text, const std::vector<std::string>& headers) {
  std::string body = nlohmann::json{{"kind", "Status"},
                                    {"apiVersion", "v1"},
                                    {"status", "Failure"},
                                    {"message", text},
                                    {"code", static_cast<unsigned>(status)}}
                         .dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
  std::string out =
      fmt::format("HTTP/1.1 {} {}\r\n", static_cast<unsigned>(status), view(http::obsolete_reason(status)));
  for (const auto& header : headers) out += header + "\r\n";
  out += fmt::format(
      "Content-Type: application/json\r\nX-Content-Type-Options: nosniff\r\nContent-Length: {}\r\n"
      "Connection: close\r\n\r\n{}\n",
      body.size() + 1, body);
  // It fits the socket's empty buffer; a client that is gone misses nothing.
  (void)!::send(socket.native_handle(), out.data(), out.size(), MSG_DONTWAIT | MSG_NOSIGNAL);
  ::shutdown(socket.native_handle(), SHUT_WR);
  if (draining >= kMaxDraining) return;
  ++draining;
  auto kept = std::make_shared<Socket>(std::move(socket));
  auto timer = std::make_shared<asio::steady_timer>(kept->get_executor(), kAnswerTime);
  timer->async_wait([kept](ErrorCode error) {
    ErrorCode ignored;
    if (!error) kept->close(ignored);
  });
  drain(kept, timer);
}

bool switchProtocols(Socket& socket, std::string_view protocol, const std::vector<std::string>& headers) {
  std::string out = fmt::format("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: {}\r\n", protocol);
  for (const auto& header : headers) out += header + "\r\n";
  out += "\r\n";
  return ::send(socket.native_handle(), out.data(), out.size(), MSG_DONTWAIT | MSG_NOSIGNAL) ==
         static_cast<ssize_t>(out.size());
}

}  // namespace userpod::streaming

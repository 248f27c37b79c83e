// The head of a request, up to what it is answered with.
#include <sys/socket.h>
#include <unistd.h>

#include "daemon/streaming/negotiation.hpp"
#include "daemon/sys/fd.hpp"
#include "daemon/sys/util.hpp"
#include "tests/fuzz/fuzz.hpp"

using namespace userpod;
using namespace userpod::streaming;
using fuzz::require;

namespace {

void check(const Request& request, const SessionRequest& session) {
  auto chosen = negotiate(request, session);
  if (auto* refusal = std::get_if<Refusal>(&chosen)) {
    auto status = static_cast<unsigned>(refusal->status);
    require(status == 400 || status == 403 || status == 405, "it is refused as a bad request");
    require(isUtf8(refusal->text) && refusal->text.size() < 1000, "the message is short and UTF-8");
    for (const auto& header : refusal->headers)
      require(header.find_first_of("\r\n") == std::string::npos, "a header is one line");
    return;
  }
  auto& protocol = std::get<Protocol>(chosen);
  require(protocol.name.find_first_of("\r\n ,") == std::string::npos, "a sub-protocol is a word");
  require(protocol.transport == Transport::WebSocket || !protocol.name.empty(), "SPDY has a sub-protocol");
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  asio::io_context io;
  auto pair = makeSocketPair(SOCK_STREAM | SOCK_NONBLOCK);
  if (!pair) return 0;
  Socket socket(io);
  socket.assign(asio::ip::tcp::v4(), pair->first.release());
  std::size_t sent = 0;
  if (ssize_t count = ::write(pair->second.get(), data, size); count > 0) sent = static_cast<std::size_t>(count);
  ::shutdown(pair->second.get(), SHUT_WR);
  int called = 0;
  bool whole = false;
  auto reader = std::make_shared<HeadReader>(std::move(socket), [&](Socket client, std::string early, Request request) {
    ++called;
    if (!client.is_open()) return;
    whole = true;
    require(early.size() < sent, "what comes early was sent");
    check(request, Exec{"id", {}});
    check(request, PortForward{"id", {80}});
    check(request, PortForward{"id", {}});
  });
  reader->start();
  reader.reset();
  io.run();
  require(called == 1, "the reader is done once");
  char answer[32] = {};
  ssize_t got = ::read(pair->second.get(), answer, sizeof(answer) - 1);
  require(got <= 0 || (!whole && std::string_view(answer).starts_with("HTTP/1.1 4")),
          "a bad head is answered with a client's error, a good one by nobody yet");
  return 0;
}

// The same sessions over WebSockets: channels, base64, and SPDY in a tunnel. The input says which frames are sent.
#include "daemon/streaming/channel_connection.hpp"
#include "daemon/streaming/spdy_connection.hpp"
#include "tests/fuzz/session.hpp"
#include "tests/streaming/websocket_client.hpp"

using namespace userpod;
namespace ws = userpod::streamtest::ws;
using fuzz::require;

namespace {

std::string frameOf(fuzz::Script& script) {
  std::uint8_t action = script.byte();
  auto payload = script.bytes(script.byte());
  if ((action & 64) != 0) return std::string(payload);  // no frame
  bool masked = (action & 32) == 0;
  return ws::frame(action & 15, payload, masked ? std::string_view("mask") : std::string_view(), (action & 128) == 0,
                   (action & 16) != 0 && !masked ? 1 : 0);
}

streaming::Request upgrade() {
  streaming::Request request(streaming::http::verb::get, "/", 11);
  request.set("Host", "localhost");
  request.set("Connection", "Upgrade");
  request.set("Upgrade", "websocket");
  request.set("Sec-WebSocket-Version", "13");
  request.set("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ==");
  return request;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  fuzz::Script script(fuzz::text(data, size));
  auto request = fuzz::requestOf(script.byte());
  std::uint8_t choice = script.byte();
  std::string bytes;
  while (script.more()) bytes += frameOf(script);
  fuzz::Play play;
  streaming::SessionContext context{play.core(), play.io(), nullptr};
  auto socket = streaming::acceptWebSocket(play.server(), upgrade(), "protocol");
  if ((choice & 1) != 0) {
    context.connection =
        std::make_unique<streaming::SpdyConnection>(std::make_unique<streaming::WebSocketTunnel>(std::move(socket)));
  } else {
    context.fixedStreams = true;
    context.connection = std::make_unique<streaming::ChannelConnection>(
        std::move(socket), streaming::channelsOf(request), (choice & 2) != 0, (choice & 4) != 0);
  }
  auto answer = play.run(streaming::makeSession(std::move(context), std::move(request)), bytes);
  require(std::string_view(answer).starts_with("HTTP/1.1 101"), "the request is answered before everything else");
  return 0;
}

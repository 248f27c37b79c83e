// Exec, attach and port-forward with a client that speaks SPDY, well or badly: the input says which frames it sends.
#include "daemon/streaming/socket_stream.hpp"
#include "daemon/streaming/spdy_connection.hpp"
#include "tests/fuzz/session.hpp"
#include "tests/streaming/spdy_client.hpp"

using namespace userpod;
namespace client = userpod::streamtest::spdy;
using fuzz::require;

namespace {

std::string frameOf(fuzz::Script& script, client::Deflater& deflater) {
  static const char* const kTypes[] = {"error", "stdin", "stdout", "stderr", "resize", "data", "nonsense", ""};
  static const char* const kSizes[] = {R"({"Width":80,"Height":24})", R"({"Width":-1,"Height":99999})",
                                       R"({"Width":"x"})", "}}{"};
  std::uint8_t action = script.byte();
  std::uint32_t stream = script.byte();
  switch (action & 7) {
    case 0:
    case 1: {
      std::uint8_t choice = script.byte();
      streamtest::Headers headers = {{"streamtype", kTypes[choice & 7]}};
      if ((choice & 8) != 0) headers.push_back({"port", (choice & 16) != 0 ? "80" : std::string(script.bytes(6))});
      if ((choice & 32) != 0) headers.push_back({"requestid", std::string(script.bytes(1))});
      return client::controlFrame(
          client::SynStream, choice >> 7,
          client::number32(stream) + std::string(6, '\0') + deflater.compress(client::headerText(headers)));
    }
    case 2: {
      auto bytes = script.bytes(script.byte());
      return client::dataHead(stream, action >> 7, static_cast<std::uint32_t>(bytes.size())) + std::string(bytes);
    }
    case 3: {
      std::string_view size = kSizes[action >> 3 & 3];
      return client::dataHead(stream, 0, static_cast<std::uint32_t>(size.size())) + std::string(size);
    }
    case 4:
      return client::controlFrame(client::RstStream, 0, client::number32(stream) + client::number32(5));
    case 5:
      return client::controlFrame(client::Ping, 0, client::number32(stream));
    case 6: {
      // Much, so that a reader that does not keep up is seen.
      std::string bytes(70000, 'x');
      return client::dataHead(stream, 0, static_cast<std::uint32_t>(bytes.size())) + bytes;
    }
    default:
      return std::string(script.bytes(8));
  }
}

// What the server has sent is whole frames, of the kinds that a client knows, up to where the client was gone.
void check(std::string_view answer) {
  while (answer.size() >= 8) {
    auto at = [&](std::size_t i) { return static_cast<std::uint32_t>(static_cast<unsigned char>(answer[i])); };
    std::size_t size = at(5) << 16 | at(6) << 8 | at(7);
    if ((at(0) & 0x80) != 0) {
      require(at(0) == 0x80 && at(1) == 3, "frames are of version 3");
      require(
          at(3) == client::SynReply || at(3) == client::RstStream || at(3) == client::Ping || at(3) == client::GoAway,
          "a server sends replies, resets, pings and its end");
    } else {
      require(at(3) % 2 == 1, "data goes to streams that the client has opened");
    }
    answer.remove_prefix(std::min(answer.size(), 8 + size));
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  fuzz::Script script(fuzz::text(data, size));
  auto request = fuzz::requestOf(script.byte());
  std::uint8_t choice = script.byte();
  client::Deflater deflater;
  std::string bytes;
  while (script.more() && bytes.size() < 256 << 10) bytes += frameOf(script, deflater);
  fuzz::Play play;
  play.core().stdinOnce = (choice & 1) != 0;
  streaming::SessionContext context{play.core(), play.io(), nullptr};
  context.format = (choice & 2) != 0 ? streaming::StatusFormat::Text : streaming::StatusFormat::Json;
  context.resizes = (choice & 4) == 0;
  context.connection = std::make_unique<streaming::SpdyConnection>(
      std::make_unique<streaming::SocketStream>(play.server(), std::string()));
  check(play.run(streaming::makeSession(std::move(context), std::move(request)), bytes));
  return 0;
}

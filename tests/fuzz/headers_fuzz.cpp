// Header blocks of SPDY, compressed as a client does it: the input is what a block holds.
#include "daemon/streaming/spdy.hpp"
#include "tests/fuzz/fuzz.hpp"
#include "tests/streaming/spdy_client.hpp"

using namespace userpod;
using namespace userpod::streaming;
using fuzz::require;
namespace client = userpod::streamtest::spdy;

namespace {

// An opening frame with the block as it is.
std::string synStream(client::Deflater& deflater, std::uint32_t id, std::string_view block) {
  return client::controlFrame(client::SynStream, 0,
                              client::number32(id) + std::string(6, '\0') + deflater.compress(block));
}

class Heard final : public spdy::Events {
 public:
  void synStream(std::uint32_t, spdy::Headers fields) override {
    headers = std::move(fields);
    ++streams;
  }
  void data(std::uint32_t, std::string_view) override {}
  void end(std::uint32_t) override {}
  void rstStream(std::uint32_t) override {}
  void ping(std::uint32_t) override {}
  void goAway() override {}

  spdy::Headers headers;
  int streams = 0;
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  client::Deflater deflater;
  Heard heard;
  spdy::Decoder decoder(heard);
  auto status = decoder.feed(synStream(deflater, 1, fuzz::text(data, size)));
  require(status ? heard.streams == 1 : heard.streams == 0, "a stream is opened, or the block was bad");
  if (!status) return 0;
  auto first = heard.headers;
  require(first.size() <= 64, "there are 64 headers at most");
  std::string again = client::headerText({first.begin(), first.end()});
  if (again.size() >= spdy::kMaxHeaderBlock) return 0;
  require(static_cast<bool>(decoder.feed(synStream(deflater, 3, again))), "what was understood can be said again");
  require(heard.headers == first, "and is understood alike");
  return 0;
}

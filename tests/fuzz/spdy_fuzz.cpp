// SPDY as it comes from a client: what is passed on does not depend on how the bytes are cut, and ids are in order.
#include <algorithm>

#include "daemon/streaming/spdy.hpp"
#include "tests/fuzz/fuzz.hpp"

using namespace userpod;
using namespace userpod::streaming;
using fuzz::require;

namespace {

// Everything that was heard, as text. Data of neighbouring parts is one.
class Heard final : public spdy::Events {
 public:
  void synStream(std::uint32_t id, spdy::Headers headers) override {
    require(id % 2 == 1 && id > last_, "streams have odd numbers that rise");
    last_ = id;
    note("open", id);
    for (const auto& [name, value] : headers) {
      require(std::none_of(name.begin(), name.end(), [](char c) { return 'A' <= c && c <= 'Z'; }),
              "names are in lower case");
      text += name + "=" + value + ";";
    }
  }
  void data(std::uint32_t id, std::string_view bytes) override {
    if (id != dataOf_) note("data", id);
    dataOf_ = id;
    text += bytes;
  }
  void end(std::uint32_t id) override { note("end", id); }
  void rstStream(std::uint32_t id) override { note("reset", id); }
  void ping(std::uint32_t id) override { note("ping", id); }
  void goAway() override { note("away", 0); }

  std::string text;

 private:
  void note(const char* what, std::uint32_t id) {
    text += std::string("\n") + what + std::to_string(id) + " ";
    dataOf_ = UINT32_MAX;
  }
  std::uint32_t last_ = 0;
  std::uint32_t dataOf_ = UINT32_MAX;
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  auto bytes = fuzz::text(data, size);
  Heard whole;
  spdy::Decoder decoder(whole);
  auto status = decoder.feed(bytes);
  if (!status) require(status.error().code() == Code::InvalidArgument, "what is not SPDY is an invalid argument");
  Heard parts;
  spdy::Decoder again(parts);
  Status cut;
  std::size_t step = size == 0 ? 1 : 1 + data[size - 1] % 7;
  for (std::size_t at = 0; cut && at < size; at += step) cut = again.feed(bytes.substr(at, step));
  require(static_cast<bool>(cut) == static_cast<bool>(status), "the same bytes in parts are as good");
  require(whole.text == parts.text, "the same bytes in parts say the same");
  return 0;
}

// Compressed streams: the same bytes come out however they are cut on their way in.
#include <algorithm>
#include <cstring>
#include <optional>

#include "daemon/images/digest.hpp"
#include "daemon/images/unpack/decompress.hpp"
#include "tests/fuzz/fuzz.hpp"

using namespace userpod;
using namespace userpod::images;
using fuzz::require;

namespace {

constexpr std::size_t kMost = 1U << 20;  // a bomb is somebody else's to stop

struct Outcome {
  std::optional<Code> failure;
  std::string text;  // of the failure
  std::string digest;
  std::size_t bytes = 0;
};

Outcome decompress(std::string_view input, std::size_t piece) {
  Outcome outcome;
  Sha256 sum;
  auto decompressor = makeDecompressor(input, [&](Block block) -> Status {
    require(block.size > 0 && block.size <= block.capacity, "a block holds something");
    sum.update(block.view());
    outcome.bytes += block.size;
    if (outcome.bytes > kMost) return Error(Code::LimitsExceeded, "enough");
    return {};
  });
  Status status;
  for (std::size_t at = 0; at < input.size() && status; at += piece) {
    // A copy of its own, for the sanitizer to see a read behind the end.
    auto part = input.substr(at, piece);
    std::unique_ptr<char[]> copy(new char[part.size()]);
    std::memcpy(copy.get(), part.data(), part.size());
    status = decompressor->feed({copy.get(), part.size()});
  }
  if (status) status = decompressor->finish();
  if (!status) {
    outcome.failure = status.error().code();
    outcome.text = status.error().text();
  }
  outcome.digest = sum.digest();
  return outcome;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  if (size < 1) return 0;
  // The first byte says how the rest is cut.
  auto input = fuzz::text(data + 1, size - 1);
  auto whole = decompress(input, std::max<std::size_t>(input.size(), 1));
  require(!whole.failure || whole.failure == Code::ImageInvalid || whole.failure == Code::LimitsExceeded,
          "a stream that cannot be read is an invalid image");
  if (whole.failure) return 0;
  auto parts = decompress(input, 1U + data[0]);
  require(!parts.failure, parts.text.c_str());
  require(parts.digest == whole.digest && parts.bytes == whole.bytes, "the cuts of the input change nothing");
  return 0;
}

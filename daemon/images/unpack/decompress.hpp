// Streaming decompression of layers: gzip of any number of members (ISA-L), zstd, or none, told apart by their magic.
#pragma once

#include <functional>
#include <memory>
#include <string_view>

#include "daemon/images/unpack/block_queue.hpp"
#include "daemon/sys/error.hpp"

namespace userpod::images {

// Takes what was decompressed; an error stops the decompression and is returned from feed().
using BlockSink = std::function<Status(Block)>;

class Decompressor {
 public:
  virtual ~Decompressor() = default;
  virtual Status feed(std::string_view bytes) = 0;
  // The input is complete. ImageInvalid: it stopped in the middle, or bytes follow the end.
  virtual Status finish() = 0;
};

// Chooses by the first bytes of the stream (at least 4 unless it is shorter).
std::unique_ptr<Decompressor> makeDecompressor(std::string_view start, BlockSink sink);
// Hands on what comes, whatever it looks like.
std::unique_ptr<Decompressor> makePlain(BlockSink sink);

}  // namespace userpod::images

#include "daemon/images/decompress.hpp"

#include <fmt/core.h>
#include <isa-l/igzip_lib.h>
#include <zstd.h>

#include <cstring>

namespace userpod::images {

namespace {

constexpr std::size_t kBlockSize = 256U << 10;  // half fits a second-level cache beside what reads it

Error invalidStream(std::string_view why) { return Error(Code::ImageInvalid, fmt::format("compressed data: {}", why)); }

// Collects output into blocks and hands over the full ones.
class Output {
 public:
  explicit Output(BlockSink sink) : sink_(std::move(sink)), block_(kBlockSize) {}

  char* room() { return block_.data.get() + block_.size; }
  std::size_t left() const { return block_.capacity - block_.size; }
  Status wrote(std::size_t bytes) {
    block_.size += bytes;
    return left() == 0 ? flush() : Status();
  }
  Status flush() {
    if (block_.size == 0) return {};
    Block full = std::exchange(block_, Block(kBlockSize));
    return sink_(std::move(full));
  }

 private:
  BlockSink sink_;
  Block block_;
};

class Gzip : public Decompressor {
 public:
  explicit Gzip(BlockSink sink) : output_(std::move(sink)), state_(std::make_unique<inflate_state>()) { begin(); }

  Status feed(std::string_view bytes) override {
    state_->next_in = reinterpret_cast<std::uint8_t*>(const_cast<char*>(bytes.data()));
    state_->avail_in = static_cast<std::uint32_t>(bytes.size());
    for (;;) {
      if (state_->block_state == ISAL_BLOCK_FINISH) {
        if (state_->avail_in == 0) return {};
        next();
      }
      inMember_ = true;
      state_->next_out = reinterpret_cast<std::uint8_t*>(output_.room());
      state_->avail_out = static_cast<std::uint32_t>(output_.left());
      std::uint32_t before = state_->avail_out;
      int code = isal_inflate(state_.get());
      if (code < ISAL_DECOMP_OK || code > ISAL_OUT_OVERFLOW) return invalidStream(fmt::format("damaged gzip stream ({})", code));
      std::uint32_t wrote = before - state_->avail_out;
      bool full = state_->avail_out == 0;
      USERPOD_CHECK(output_.wrote(wrote));
      bool memberEnd = state_->block_state == ISAL_BLOCK_FINISH;
      if (!memberEnd && state_->avail_in == 0 && !full) return {};
    }
  }

  Status finish() override {
    if (!inMember_ || state_->block_state != ISAL_BLOCK_FINISH) return invalidStream("the gzip stream is cut short");
    return output_.flush();
  }

 private:
  void begin() {
    isal_inflate_init(state_.get());
    // The header is parsed and the checksum of the trailer verified by the library.
    state_->crc_flag = ISAL_GZIP;
  }
  void next() {
    const auto* in = state_->next_in;
    auto available = state_->avail_in;
    isal_inflate_reset(state_.get());
    state_->crc_flag = ISAL_GZIP;
    state_->next_in = const_cast<std::uint8_t*>(in);
    state_->avail_in = available;
  }

  Output output_;
  std::unique_ptr<inflate_state> state_;
  bool inMember_ = false;
};

struct ZstdDeleter {
  void operator()(ZSTD_DCtx* context) const { ZSTD_freeDCtx(context); }
};

class Zstd : public Decompressor {
 public:
  explicit Zstd(BlockSink sink) : output_(std::move(sink)), context_(ZSTD_createDCtx()) {
    // A frame may ask for a window of gigabytes; 128 MB is what the zstd tool itself accepts.
    if (context_) ZSTD_DCtx_setParameter(context_.get(), ZSTD_d_windowLogMax, 27);
  }

  Status feed(std::string_view bytes) override {
    if (!context_) return Error(Code::LimitsExceeded, "no memory to decompress zstd");
    ZSTD_inBuffer in{bytes.data(), bytes.size(), 0};
    for (;;) {
      ZSTD_outBuffer out{output_.room(), output_.left(), 0};
      pending_ = ZSTD_decompressStream(context_.get(), &out, &in);
      if (ZSTD_isError(pending_) != 0) return invalidStream(fmt::format("zstd: {}", ZSTD_getErrorName(pending_)));
      bool full = out.pos == out.size;
      USERPOD_CHECK(output_.wrote(out.pos));
      // At the end of a frame all is flushed, and another call would already ask for the next one.
      if (in.pos == in.size && (pending_ == 0 || !full)) return {};
    }
  }

  Status finish() override {
    if (pending_ != 0) return invalidStream("the zstd stream is cut short");
    return output_.flush();
  }

 private:
  Output output_;
  std::unique_ptr<ZSTD_DCtx, ZstdDeleter> context_;
  std::size_t pending_ = 1;
};

class Plain : public Decompressor {
 public:
  explicit Plain(BlockSink sink) : output_(std::move(sink)) {}

  Status feed(std::string_view bytes) override {
    while (!bytes.empty()) {
      std::size_t part = std::min(bytes.size(), output_.left());
      std::memcpy(output_.room(), bytes.data(), part);
      bytes.remove_prefix(part);
      USERPOD_CHECK(output_.wrote(part));
    }
    return {};
  }
  Status finish() override { return output_.flush(); }

 private:
  Output output_;
};

}  // namespace

std::unique_ptr<Decompressor> makeDecompressor(std::string_view start, BlockSink sink) {
  if (start.starts_with("\x1f\x8b")) return std::make_unique<Gzip>(std::move(sink));
  if (start.starts_with("\x28\xb5\x2f\xfd") ||
      (start.size() >= 4 && (start[0] & 0xf0) == 0x50 && start.substr(1, 3) == "\x2a\x4d\x18"))
    return std::make_unique<Zstd>(std::move(sink));
  return std::make_unique<Plain>(std::move(sink));
}

}  // namespace userpod::images

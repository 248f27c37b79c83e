#include "daemon/images/unpack/decompress.hpp"

#include <fmt/core.h>
#include <isa-l/crc.h>
#include <isa-l/igzip_lib.h>
#include <zstd.h>

#include <cstring>

namespace userpod::images {

namespace {

constexpr std::size_t kBlockSize = 256U << 10;  // half fits a second-level cache beside what reads it

Error invalidStream(std::string_view why) {
  return Error(Code::ImageInvalid, fmt::format("compressed data: {}", why));
}

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

// The header of one member (RFC 1952, section 2.3), in whatever pieces it comes. The library's own reader loses its
// place when a piece ends in a header that has more than one of the optional fields.
class GzipHeader {
 public:
  // Takes what is the header's off the front of `bytes`. true: it is complete.
  Result<bool> take(std::string_view& bytes) {
    while (!bytes.empty() && stage_ != Stage::Done) {
      auto byte = static_cast<unsigned char>(bytes.front());
      if (stage_ != Stage::Checksum) sum_ = crc32_gzip_refl(sum_, &byte, 1);
      bytes.remove_prefix(1);
      USERPOD_CHECK(read(byte));
    }
    return stage_ == Stage::Done;
  }
  bool begun() const { return stage_ != Stage::Fixed || position_ > 0; }

 private:
  enum class Stage { Fixed, ExtraLength, Extra, Name, Comment, Checksum, Done };
  enum Flag : unsigned { kChecksum = 2, kExtra = 4, kName = 8, kComment = 16, kReserved = 0xe0 };

  Status read(unsigned char byte) {
    std::size_t at = position_++;
    switch (stage_) {
      case Stage::Fixed: {
        constexpr unsigned char kStart[] = {0x1f, 0x8b, 8};  // the magic, and the one method there is
        if (at < sizeof(kStart) && byte != kStart[at])
          return invalidStream("what follows in the gzip stream is no gzip member");
        if (at == 3) flags_ = byte;
        if (at == 3 && (byte & kReserved) != 0) return invalidStream("a gzip header with unknown flags");
        if (at == 9) enter(Stage::ExtraLength);
        return {};
      }
      case Stage::ExtraLength:
        extra_ |= static_cast<std::size_t>(byte) << (8 * at);
        if (at == 1) enter(extra_ > 0 ? Stage::Extra : Stage::Name);
        return {};
      case Stage::Extra:
        if (at + 1 == extra_) enter(Stage::Name);
        return {};
      case Stage::Name:
        if (byte == 0) enter(Stage::Comment);
        return {};
      case Stage::Comment:
        if (byte == 0) enter(Stage::Checksum);
        return {};
      case Stage::Checksum:
        if (byte != ((sum_ >> (8 * at)) & 0xff)) return invalidStream("a gzip header with a wrong checksum");
        if (at == 1) enter(Stage::Done);
        return {};
      case Stage::Done:
        break;
    }
    return {};
  }
  // The stage, or the next one that this header has.
  void enter(Stage stage) {
    position_ = 0;
    if (stage == Stage::ExtraLength && (flags_ & kExtra) == 0) stage = Stage::Name;
    if (stage == Stage::Name && (flags_ & kName) == 0) stage = Stage::Comment;
    if (stage == Stage::Comment && (flags_ & kComment) == 0) stage = Stage::Checksum;
    if (stage == Stage::Checksum && (flags_ & kChecksum) == 0) stage = Stage::Done;
    stage_ = stage;
  }

  Stage stage_ = Stage::Fixed;
  std::size_t position_ = 0;  // in the stage
  std::size_t extra_ = 0;
  unsigned flags_ = 0;
  std::uint32_t sum_ = 0;
};

class Gzip : public Decompressor {
 public:
  explicit Gzip(BlockSink sink) : output_(std::move(sink)), state_(std::make_unique<inflate_state>()) {
    isal_inflate_init(state_.get());
  }

  Status feed(std::string_view bytes) override {
    while (!bytes.empty() || pending_) {
      if (!inMember_) {
        USERPOD_TRY(complete, header_.take(bytes));
        if (!complete) return {};
        begin();
      }
      USERPOD_CHECK(inflate(bytes));
    }
    return {};
  }

  Status finish() override {
    if (inMember_ || header_.begun() || !anyMember_) return invalidStream("the gzip stream is cut short");
    return output_.flush();
  }

 private:
  void begin() {
    isal_inflate_reset(state_.get());
    state_->crc_flag = ISAL_GZIP_NO_HDR_VER;  // the library verifies the checksum and the length in the trailer
    inMember_ = anyMember_ = true;
    header_ = {};
  }
  // One call's worth; takes what it used off `bytes`.
  Status inflate(std::string_view& bytes) {
    state_->next_in = reinterpret_cast<std::uint8_t*>(const_cast<char*>(bytes.data()));
    state_->avail_in = static_cast<std::uint32_t>(bytes.size());
    state_->next_out = reinterpret_cast<std::uint8_t*>(output_.room());
    state_->avail_out = static_cast<std::uint32_t>(output_.left());
    std::uint32_t before = state_->avail_out;
    int code = isal_inflate(state_.get());
    if (code < ISAL_DECOMP_OK || code > ISAL_OUT_OVERFLOW)
      return invalidStream(fmt::format("damaged gzip stream ({})", code));
    bytes.remove_prefix(bytes.size() - state_->avail_in);
    inMember_ = state_->block_state != ISAL_BLOCK_FINISH;
    // Without room for more it has more to give, whether there is more input or not.
    pending_ = inMember_ && state_->avail_out == 0;
    return output_.wrote(before - state_->avail_out);
  }

  Output output_;
  std::unique_ptr<inflate_state> state_;
  GzipHeader header_;  // of the next member, between two
  bool inMember_ = false;
  bool anyMember_ = false;
  bool pending_ = false;
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
    if (bytes.empty()) return {};  // behind a whole frame it would be taken for the begin of another
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
  return makePlain(std::move(sink));
}

std::unique_ptr<Decompressor> makePlain(BlockSink sink) {
  return std::make_unique<Plain>(std::move(sink));
}

}  // namespace userpod::images

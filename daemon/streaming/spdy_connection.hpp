// A client that speaks SPDY/3.1: it opens streams, one header block each, and both sides write to them.
#pragma once

#include <map>
#include <memory>

#include "daemon/streaming/byte_stream.hpp"
#include "daemon/streaming/connection.hpp"
#include "daemon/streaming/spdy.hpp"

namespace userpod::streaming {

class SpdyConnection final : public Connection, private ByteStream::Listener, private spdy::Events {
 public:
  explicit SpdyConnection(std::unique_ptr<ByteStream> bytes) : bytes_(std::move(bytes)), decoder_(*this) {}

  void start(Handler& handler) override;
  bool ready() const override { return bytes_->ready(); }
  void send(StreamId id, std::string_view bytes) override;
  void finish(StreamId id) override;
  void hold() override { bytes_->hold(); }
  void release() override { bytes_->release(); }
  void close() override;
  void abort() override { bytes_->abort(); }
  std::chrono::steady_clock::time_point stalledSince() const override { return bytes_->stalledSince(); }
  std::chrono::steady_clock::time_point lastUse() const override { return bytes_->lastUse(); }
  void check() override { bytes_->check(); }

 private:
  struct Stream {
    bool received = false;  // the client has ended its side
    bool sent = false;      // we have ours
  };
  void received(std::string_view bytes) override;
  void flushed() override { handler_->flushed(); }
  void gone() override { handler_->gone(); }
  void synStream(std::uint32_t id, spdy::Headers headers) override;
  void data(std::uint32_t id, std::string_view bytes) override;
  void end(std::uint32_t id) override;
  void rstStream(std::uint32_t id) override;
  void ping(std::uint32_t id) override;
  void goAway() override {}  // no more streams; those there are go on
  void dropEnded(StreamId id);

  std::unique_ptr<ByteStream> bytes_;
  spdy::Decoder decoder_;
  spdy::ReplyEncoder replies_;
  Handler* handler_ = nullptr;
  std::map<StreamId, Stream> streams_;
  StreamId last_ = 0;
  bool closing_ = false;
};

}  // namespace userpod::streaming

#include "daemon/streaming/spdy_connection.hpp"

#include "daemon/sys/log.hpp"

namespace userpod::streaming {
namespace {

constexpr std::size_t kMaxStreams = 1000;  // of a connection at once: 500 forwarded connections

}  // namespace

void SpdyConnection::start(Handler& handler) {
  handler_ = &handler;
  bytes_->start(*this);
}

void SpdyConnection::send(StreamId id, std::string_view bytes) {
  auto found = streams_.find(id);
  if (found == streams_.end() || found->second.sent || bytes.empty()) return;
  bytes_->write(spdy::dataHead(id, bytes.size(), false), bytes);
}

void SpdyConnection::finish(StreamId id) {
  auto found = streams_.find(id);
  if (found == streams_.end() || found->second.sent) return;
  found->second.sent = true;
  bytes_->write(spdy::dataHead(id, 0, true));
  dropEnded(id);
}

void SpdyConnection::close() {
  if (std::exchange(closing_, true)) return;
  bytes_->write(spdy::goAway(last_, false));
  bytes_->close();
}

void SpdyConnection::received(std::string_view bytes) {
  auto status = decoder_.feed(bytes);
  if (status || closing_) return;
  logInfo("streaming: connection closed: {}", status.error());
  closing_ = true;
  bytes_->write(spdy::goAway(last_, true));
  bytes_->close();
}

void SpdyConnection::synStream(std::uint32_t id, spdy::Headers headers) {
  if (closing_) return;
  last_ = id;
  if (streams_.size() >= kMaxStreams || !handler_->opened(id, headers)) {
    bytes_->write(spdy::rstStream(id, spdy::Reset::RefusedStream));
    return;
  }
  streams_[id] = {};
  bytes_->write(replies_.synReply(id));
}

void SpdyConnection::data(std::uint32_t id, std::string_view bytes) {
  if (closing_) return;
  auto found = streams_.find(id);
  if (found != streams_.end() && !found->second.received) return handler_->received(id, bytes);
  // To streams that have ended some is still under way.
  if (id > last_ || id == 0) bytes_->write(spdy::rstStream(id, spdy::Reset::InvalidStream));
}

void SpdyConnection::end(std::uint32_t id) {
  auto found = streams_.find(id);
  if (closing_ || found == streams_.end() || found->second.received) return;
  found->second.received = true;
  handler_->ended(id);
  dropEnded(id);
}

void SpdyConnection::rstStream(std::uint32_t id) {
  if (!closing_ && streams_.erase(id) > 0) handler_->reset(id);
}

void SpdyConnection::ping(std::uint32_t id) {
  if (!closing_ && id % 2 == 1) bytes_->write(spdy::ping(id));
}

void SpdyConnection::dropEnded(StreamId id) {
  auto found = streams_.find(id);
  if (found != streams_.end() && found->second.received && found->second.sent) streams_.erase(found);
}

}  // namespace userpod::streaming

#include "tests/streaming/spdy_client.hpp"

#include <algorithm>

namespace userpod::streamtest {
namespace {

constexpr std::size_t kHead = 8;
constexpr std::size_t kLargestControl = 1 << 20;  // what the client takes

std::uint32_t numberAt(std::string_view bytes, std::size_t at) {
  std::uint32_t value = 0;
  for (std::size_t i = 0; i < 4; ++i)
    value = value << 8 | (at + i < bytes.size() ? static_cast<std::uint8_t>(bytes[at + i]) : 0);
  return value;
}

}  // namespace

SpdyConnection::SpdyConnection(std::unique_ptr<Link> link, std::string first, bool server)
    : link_(std::move(link)), nextId_(server ? 2 : 1), server_(server) {
  link_->start(*this, std::move(first));
}

SpdyConnection::~SpdyConnection() {
  link_->drop(Drop::Fin);
}

std::uint32_t SpdyConnection::open(const Headers& headers, std::uint8_t flags) {
  auto id = nextId_;
  nextId_ += 2;
  openAs(id, headers, flags);
  return id;
}

void SpdyConnection::openAs(std::uint32_t id, const Headers& headers, std::uint8_t flags) {
  openWithBlock(id, block(headers), flags);
}

void SpdyConnection::openWithBlock(std::uint32_t id, std::string_view block, std::uint8_t flags) {
  auto payload = spdy::number32(id) + spdy::number32(0) + spdy::number16(0);
  link_->send(spdy::controlFrame(spdy::SynStream, flags, payload.append(block)));
}

void SpdyConnection::reply(std::uint32_t id, const Headers& headers, std::uint8_t flags) {
  link_->send(spdy::controlFrame(spdy::SynReply, flags, spdy::number32(id) + block(headers)));
}

void SpdyConnection::send(std::uint32_t id, std::string_view bytes, std::size_t frame) {
  for (std::size_t at = 0; at < bytes.size(); at += frame) {
    auto piece = bytes.substr(at, frame);
    link_->send(spdy::dataHead(id, 0, static_cast<std::uint32_t>(piece.size())), piece);
  }
}

void SpdyConnection::finish(std::uint32_t id, std::string_view last) {
  link_->send(spdy::dataHead(id, spdy::kFin, static_cast<std::uint32_t>(last.size())), last);
}

void SpdyConnection::reset(std::uint32_t id, std::uint32_t status) {
  link_->send(spdy::controlFrame(spdy::RstStream, 0, spdy::number32(id) + spdy::number32(status)));
}

void SpdyConnection::ping(std::uint32_t id) {
  link_->send(spdy::controlFrame(spdy::Ping, 0, spdy::number32(id)));
}

void SpdyConnection::goAway(std::uint32_t lastStream, std::uint32_t status) {
  link_->send(spdy::controlFrame(spdy::GoAway, 0, spdy::number32(lastStream) + spdy::number32(status)));
}

void SpdyConnection::settings(std::uint32_t id, std::uint32_t value) {
  link_->send(spdy::controlFrame(spdy::Settings, 0, spdy::number32(1) + spdy::number32(id) + spdy::number32(value)));
}

void SpdyConnection::windowUpdate(std::uint32_t id, std::uint32_t delta) {
  link_->send(spdy::controlFrame(spdy::WindowUpdate, 0, spdy::number32(id) + spdy::number32(delta)));
}

void SpdyConnection::receive(std::string_view bytes) {
  while (!bytes.empty()) {
    if (left_ > 0) {
      auto piece = bytes.substr(0, left_);
      inbox_.data(stream_, piece);
      bytes.remove_prefix(piece.size());
      left_ -= piece.size();
      if (left_ == 0 && finish_) inbox_.event({What::Finish, stream_});
      continue;
    }
    auto piece = bytes.substr(0, wanted_ - held_.size());
    held_ += piece;
    bytes.remove_prefix(piece.size());
    if (held_.size() == wanted_) takeHead();
  }
}

// The head of a frame is complete, or all of a control frame.
void SpdyConnection::takeHead() {
  std::size_t length = numberAt(held_, 4) & 0xffffff;
  bool control = (held_[0] & 0x80) != 0;
  if (control && length > kLargestControl) {
    inbox_.fault("a control frame of " + std::to_string(length) + " bytes");
  } else if (control && held_.size() < kHead + length) {
    wanted_ = kHead + length;
    return;
  } else if (control) {
    takeControl(std::string_view(held_).substr(kHead));
  } else {
    stream_ = numberAt(held_, 0);
    finish_ = (held_[4] & spdy::kFin) != 0;
    left_ = length;
    bool known = inbox_.look([&](const auto& now) {
      const auto& stream = now.stream(stream_);
      return server_ ? stream.opened : stream.replied;
    });
    if (!known) inbox_.fault("data on stream " + std::to_string(stream_) + ", which is not open");
    if (length == 0) inbox_.event({finish_ ? What::Finish : What::Empty, stream_});
  }
  held_.clear();
  wanted_ = kHead;
}

void SpdyConnection::takeControl(std::string_view payload) {
  auto version = numberAt(held_, 0) >> 16 & 0x7fff;
  auto type = numberAt(held_, 0) & 0xffff;
  auto flags = static_cast<std::uint8_t>(held_[4]);
  auto id = numberAt(payload, 0) & 0x7fffffff;
  if (version != spdy::kVersion) inbox_.fault("a frame of version " + std::to_string(version));
  try {
    switch (type) {
      case spdy::SynStream:
        if (payload.size() < 10) throw std::runtime_error("a short SYN_STREAM");
        inbox_.headers(id, inflater_.decompress(payload.substr(10)));
        inbox_.event({What::Open, id});
        break;
      case spdy::SynReply:
        if (payload.size() < 4) throw std::runtime_error("a short SYN_REPLY");
        // What Z_SYNC_FLUSH ends with; the zlib of Go waits for it.
        if (!payload.ends_with(std::string_view("\0\0\xff\xff", 4)))
          throw std::runtime_error("a header block that is not flushed");
        inbox_.headers(id, inflater_.decompress(payload.substr(4)));
        inbox_.event({What::Reply, id});
        break;
      case spdy::RstStream:
        inbox_.event({What::Reset, id, numberAt(payload, 4)});
        return;
      case spdy::Ping:
        // Odd ids are those of the client's own pings.
        if ((numberAt(payload, 0) % 2 == 1) == server_) link_->offer(spdy::controlFrame(spdy::Ping, 0, payload));
        inbox_.event({What::Ping, 0, numberAt(payload, 0)});
        return;
      case spdy::GoAway:
        inbox_.event({What::GoAway, id, numberAt(payload, 4)});
        return;
      default:
        inbox_.event({What::Other, id, type});
        return;
    }
    if ((flags & spdy::kFin) != 0) inbox_.event({What::Finish, id});
  } catch (const std::exception& e) {
    inbox_.fault(e.what());
  }
}

SpdyOpened openSpdy(const std::string& url, const Request& request) {
  auto opened = ask(url, request);
  SpdyOpened result{std::move(opened.answer), nullptr};
  if (result.answer.status == 101)
    result.connection = std::make_unique<SpdyConnection>(std::make_unique<SocketLink>(std::move(opened.socket)),
                                                         std::move(opened.rest));
  return result;
}

}  // namespace userpod::streamtest

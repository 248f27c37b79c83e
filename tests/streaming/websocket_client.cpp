#include "tests/streaming/websocket_client.hpp"

#include <algorithm>
#include <cstring>

namespace userpod::streamtest {
namespace ws {

std::string frameHead(std::uint8_t opcode, std::uint64_t length, std::string_view mask, bool last,
                      std::uint8_t reserved) {
  std::string head;
  head += static_cast<char>((last ? 0x80 : 0) | reserved << 4 | opcode);
  int masked = mask.empty() ? 0 : 0x80;
  int bytes = length < 126 ? 0 : length < 65536 ? 2 : 8;
  head += static_cast<char>(masked | (bytes == 0 ? static_cast<int>(length) : bytes == 2 ? 126 : 127));
  while (bytes-- > 0) head += static_cast<char>(length >> (8 * bytes));
  return head.append(mask);
}

void applyMask(char* bytes, std::size_t size, std::string_view mask) {
  std::uint64_t eight = 0;
  for (std::size_t i = 0; i < 8; ++i) reinterpret_cast<char*>(&eight)[i] = mask[i % 4];
  for (; size >= 8; bytes += 8, size -= 8) {
    std::uint64_t word;
    std::memcpy(&word, bytes, 8);
    word ^= eight;
    std::memcpy(bytes, &word, 8);
  }
  for (std::size_t i = 0; i < size; ++i) bytes[i] = static_cast<char>(bytes[i] ^ mask[i % 4]);
}

std::string frame(std::uint8_t opcode, std::string_view payload, std::string_view mask, bool last,
                  std::uint8_t reserved) {
  auto text = frameHead(opcode, payload.size(), mask, last, reserved);
  auto head = text.size();
  text += payload;
  if (!mask.empty()) applyMask(text.data() + head, payload.size(), mask);
  return text;
}

}  // namespace ws

namespace {

constexpr std::size_t kMessage = 32 << 10;
constexpr std::uint8_t kCloseSignal = 0xff;
const std::string kTunnelProtocol = "SPDY/3.1+portforward.k8s.io";

}  // namespace

WebSocketConnection::WebSocketConnection(std::unique_ptr<Link> link, std::string first, Carries carries, bool server)
    : link_(std::move(link)), carries_(carries), server_(server), masks_(!server) {
  link_->start(*this, std::move(first));
}

WebSocketConnection::~WebSocketConnection() {
  link_->drop(Drop::Fin);
}

// ---- What is sent

std::string WebSocketConnection::newMask() {
  if (!masks_) return {};
  std::lock_guard lock(random_);
  auto value = generator_();
  return {reinterpret_cast<const char*>(&value), 4};
}

void WebSocketConnection::frame(std::uint8_t opcode, std::string_view payload, bool last, std::uint8_t reserved) {
  link_->send(ws::frame(opcode, payload, newMask(), last, reserved));
}

void WebSocketConnection::message(std::uint8_t opcode, std::string_view payload) {
  frame(opcode, payload);
}

void WebSocketConnection::fragmented(std::uint8_t opcode, std::string_view payload, std::size_t frames) {
  auto size = payload.size() / frames + 1;
  for (std::size_t i = 0; i < frames; ++i) {
    auto part = payload.substr(std::min(i * size, payload.size()), size);
    frame(i == 0 ? opcode : static_cast<std::uint8_t>(ws::Continuation), part, i + 1 == frames);
  }
}

void WebSocketConnection::close(int code, std::string_view reason) {
  closeSent_ = true;
  frame(ws::Close,
        code == ws::kNoCode ? std::string() : spdy::number16(static_cast<std::uint16_t>(code)).append(reason));
}

void WebSocketConnection::sendChannel(std::uint8_t channel, std::string_view bytes) {
  do {
    auto part = bytes.substr(0, kMessage);
    bytes.remove_prefix(part.size());
    if (carries_ == Carries::Base64Channels) {
      message(ws::Text, static_cast<char>('0' + channel) + base64(part));
    } else {
      message(ws::Binary, std::string(1, static_cast<char>(channel)).append(part));
    }
  } while (!bytes.empty());
}

void WebSocketConnection::closeChannel(std::uint8_t channel) {
  message(ws::Binary, std::string(1, static_cast<char>(kCloseSignal)) + static_cast<char>(channel));
}

void WebSocketConnection::send(std::string_view head, std::string_view body) {
  frame(ws::Binary, std::string(head).append(body));
}

void WebSocketConnection::offer(std::string_view bytes) {
  link_->offer(ws::frame(ws::Binary, bytes, newMask()));
}

// ---- What comes

void WebSocketConnection::start(Receiver& receiver, std::string first) {
  std::lock_guard lock(tunnel_);
  tunnelled_ = &receiver;
  first += std::exchange(tunnelEarly_, {});
  if (!first.empty()) receiver.receive(first);
  if (auto ended = inbox_.look([](const auto& now) { return now.ended; })) receiver.ended(*ended);
}

void WebSocketConnection::ended(const std::string& why) {
  inbox_.ended(why);
  std::lock_guard lock(tunnel_);
  if (tunnelled_ != nullptr) tunnelled_->ended(why);
}

void WebSocketConnection::receive(std::string_view bytes) {
  while (!bytes.empty()) {
    if (inFrame_) {
      auto part = bytes.substr(0, static_cast<std::size_t>(std::min<std::uint64_t>(left_, bytes.size())));
      bytes.remove_prefix(part.size());
      left_ -= part.size();
      if (mask_.empty()) {
        piece(part, left_ == 0);
      } else {
        std::string clear(part);
        for (auto& c : clear) c = static_cast<char>(c ^ mask_[maskAt_++ % 4]);
        piece(clear, left_ == 0);
      }
      continue;
    }
    auto part = bytes.substr(0, wanted_ - held_.size());
    held_ += part;
    bytes.remove_prefix(part.size());
    if (held_.size() == wanted_) takeHead();
  }
}

void WebSocketConnection::takeHead() {
  auto length = static_cast<std::uint8_t>(held_[1]) & 0x7f;
  bool masked = (held_[1] & 0x80) != 0;
  std::size_t extra = length == 126 ? 2 : length == 127 ? 8 : 0;
  wanted_ = 2 + extra + (masked ? 4 : 0);
  if (held_.size() < wanted_) return;
  left_ = extra == 0 ? static_cast<std::uint64_t>(length) : 0;
  for (std::size_t i = 0; i < extra; ++i) left_ = left_ << 8 | static_cast<std::uint8_t>(held_[2 + i]);
  if (masked != server_) inbox_.fault(masked ? "a masked frame of the server" : "a frame without mask of the client");
  if ((held_[0] & 0x70) != 0) inbox_.fault("reserved bits of a frame are set");
  if (left_ < (extra == 2 ? 126U : extra == 8 ? 65536U : 0U)) inbox_.fault("a length that is longer than it must be");
  mask_ = masked ? held_.substr(2 + extra) : "";
  maskAt_ = 0;
  opcode_ = static_cast<std::uint8_t>(held_[0] & 0x0f);
  last_ = (held_[0] & 0x80) != 0;
  held_.clear();
  wanted_ = 2;
  inFrame_ = true;
  if (opcode_ < ws::Close) {
    if ((opcode_ == ws::Continuation) != inMessage_) inbox_.fault("a message that is not continued as it must be");
    if (!inMessage_) messageOpcode_ = opcode_, messageSize_ = 0, text_.clear();
    inMessage_ = true;
  } else if (left_ > 125 || !last_) {
    inbox_.fault("a control frame that is too long or in parts");
  }
  if (left_ == 0) piece({}, true);
}

void WebSocketConnection::piece(std::string_view bytes, bool lastOfFrame) {
  bool control = opcode_ >= ws::Close;
  if (control) {
    control_ += bytes;
  } else {
    takeMessagePiece(bytes);
  }
  if (!lastOfFrame) return;
  inFrame_ = false;
  if (control) takeControl();
  if (!control && last_) {
    inMessage_ = false;
    endMessage();
  }
}

void WebSocketConnection::takeMessagePiece(std::string_view bytes) {
  if (carries_ == Carries::Channels) {
    takeChannelPiece(bytes);
  } else if (carries_ == Carries::Base64Channels) {
    text_ += bytes;
  } else if (carries_ == Carries::Messages) {
    inbox_.data(messages_, bytes);
  } else {
    std::lock_guard lock(tunnel_);
    if (tunnelled_ == nullptr) {
      tunnelEarly_ += bytes;
    } else if (!bytes.empty()) {
      tunnelled_->receive(bytes);
    }
  }
  messageSize_ += bytes.size();
}

void WebSocketConnection::takeChannelPiece(std::string_view bytes) {
  if (bytes.empty()) return;
  if (messageSize_ == 0) {
    channel_ = static_cast<std::uint8_t>(bytes[0]);
    bytes.remove_prefix(1);
  }
  if (channel_ == kCloseSignal) {
    text_ += bytes;
  } else if (!bytes.empty()) {
    inbox_.data(channel_, bytes);
  }
}

void WebSocketConnection::endMessage() {
  auto expected = carries_ == Carries::Base64Channels ? ws::Text : ws::Binary;
  if (carries_ != Carries::Messages && messageOpcode_ != expected)
    inbox_.fault("a message of type " + std::to_string(messageOpcode_));
  if (carries_ == Carries::Messages) {
    inbox_.event({What::Finish, messages_++, messageOpcode_});
  } else if (carries_ == Carries::Base64Channels) {
    takeBase64();
  } else if (carries_ == Carries::Channels) {
    if (messageSize_ == 0) {
      inbox_.fault("a message without a channel");
    } else if (channel_ == kCloseSignal) {
      for (char channel : text_) inbox_.event({What::Finish, static_cast<std::uint8_t>(channel)});
    } else if (messageSize_ == 1) {
      inbox_.event({What::Empty, channel_});
    }
  }
}

void WebSocketConnection::takeBase64() {
  try {
    if (text_.empty()) throw std::invalid_argument("a message without a channel");
    auto bytes = fromBase64(std::string_view(text_).substr(1));
    auto channel = static_cast<std::uint32_t>(text_[0] - '0');
    if (bytes.empty()) {
      inbox_.event({What::Empty, channel});
    } else {
      inbox_.data(channel, bytes);
    }
  } catch (const std::exception& e) {
    inbox_.fault(e.what());
  }
}

void WebSocketConnection::takeControl() {
  auto payload = std::exchange(control_, {});
  if (opcode_ == ws::Ping) {
    link_->offer(ws::frame(ws::Pong, payload, newMask()));
    inbox_.event({What::Ping});
  } else if (opcode_ == ws::Pong) {
    inbox_.event({What::Other, ws::Pong, payload.size()});
    inbox_.data(1U << 16 | ws::Pong, payload);
  } else if (opcode_ == ws::Close) {
    if (payload.size() == 1) inbox_.fault("a close frame with half a code");
    int code = payload.size() < 2 ? ws::kNoCode
                                  : static_cast<std::uint8_t>(payload[0]) << 8 | static_cast<std::uint8_t>(payload[1]);
    if (!closeSent_.exchange(true)) link_->offer(ws::frame(ws::Close, payload.substr(0, 2), newMask()));
    inbox_.closed(code, payload.size() > 2 ? payload.substr(2) : "");
  } else {
    inbox_.fault("a frame of type " + std::to_string(opcode_));
  }
}

// ---- Opening

WebSocketOpened openWebSocket(const std::string& url, const Request& request, Carries carries) {
  auto opened = ask(url, request);
  WebSocketOpened result{std::move(opened.answer), "", nullptr};
  if (result.answer.status != 101) return result;
  std::string key;
  for (const auto& [name, value] : request.headers)
    if (name == "Sec-WebSocket-Key") key = value;
  if (result.answer.one("Sec-WebSocket-Accept") != acceptOf(key)) throw Lost("Sec-WebSocket-Accept is not of the key");
  result.protocol = result.answer.one("Sec-WebSocket-Protocol");
  result.connection = std::make_unique<WebSocketConnection>(std::make_unique<SocketLink>(std::move(opened.socket)),
                                                            std::move(opened.rest), carries);
  return result;
}

SpdyOpened openTunnel(const std::string& url) {
  auto opened = openWebSocket(url, webSocketRequest({kTunnelProtocol}), Carries::Tunnel);
  SpdyOpened result{std::move(opened.answer), nullptr};
  if (opened.connection) result.connection = std::make_unique<SpdyConnection>(std::move(opened.connection));
  return result;
}

}  // namespace userpod::streamtest

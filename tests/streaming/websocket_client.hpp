// RFC 6455 over a socket, both sides of it. Messages are told apart by what they carry: channels of Kubernetes, bytes
// of a tunnel, or just messages. Written for tests: everything can be sent, also what the RFC forbids.
#pragma once

#include <memory>
#include <random>
#include <string>
#include <string_view>
#include <vector>

#include "tests/streaming/inbox.hpp"
#include "tests/streaming/link.hpp"
#include "tests/streaming/spdy_client.hpp"

namespace userpod::streamtest {

namespace ws {

enum Opcode : std::uint8_t { Continuation = 0, Text = 1, Binary = 2, Close = 8, Ping = 9, Pong = 10 };
constexpr int kNormal = 1000;
constexpr int kNoCode = 1005;

// A frame; masked by four bytes when there are any.
std::string frame(std::uint8_t opcode, std::string_view payload, std::string_view mask, bool last = true,
                  std::uint8_t reserved = 0);
std::string frameHead(std::uint8_t opcode, std::uint64_t length, std::string_view mask, bool last = true,
                      std::uint8_t reserved = 0);
void applyMask(char* bytes, std::size_t size, std::string_view mask);

}  // namespace ws

// What messages carry. Channels: binary, their first byte is the channel (0xff: the end of the channel in the second).
// Base64Channels: text, a digit and base64. Messages: the inbox has one stream per message, 0, 1, 2... Tunnel: bytes.
enum class Carries { Channels, Base64Channels, Messages, Tunnel };

// Sends by any thread. PINGs and a close of the other side are answered (close only once).
class WebSocketConnection final : public Receiver, public Link {
 public:
  WebSocketConnection(std::unique_ptr<Link> link, std::string first, Carries carries, bool server = false);
  ~WebSocketConnection() override;

  // ---- Messages and frames
  void message(std::uint8_t opcode, std::string_view payload);
  // In so many frames of equal size.
  void fragmented(std::uint8_t opcode, std::string_view payload, std::size_t frames);
  void frame(std::uint8_t opcode, std::string_view payload, bool last = true, std::uint8_t reserved = 0);
  void ping(std::string_view payload) { frame(ws::Ping, payload); }
  void close(int code = ws::kNormal, std::string_view reason = {});
  void raw(std::string_view bytes) { link_->send(bytes); }
  // From now on sent frames have no mask: what a client must not do.
  void unmasked() { masks_ = false; }

  // ---- Channels
  // In messages of at most 32 KiB.
  void sendChannel(std::uint8_t channel, std::string_view bytes);
  void closeChannel(std::uint8_t channel);  // of v5

  Inbox& inbox() { return inbox_; }

  // ---- As a link: each send is a binary message
  void start(Receiver& receiver, std::string first) override;
  void send(std::string_view head, std::string_view body = {}) override;
  void offer(std::string_view bytes) override;
  void pause(bool paused) override { link_->pause(paused); }
  void endOutput() override { link_->endOutput(); }
  void stay() override { link_->stay(); }
  void drop(Drop how) override { link_->drop(how); }

  void receive(std::string_view bytes) override;
  void ended(const std::string& why) override;

 private:
  void takeHead();
  void piece(std::string_view bytes, bool lastOfFrame);
  void takeControl();
  void takeMessagePiece(std::string_view bytes);
  void endMessage();
  std::string newMask();
  void takeChannelPiece(std::string_view bytes);
  void takeBase64();

  std::unique_ptr<Link> link_;
  Inbox inbox_;
  Carries carries_;
  bool server_;
  std::atomic<bool> masks_;
  std::mutex random_;
  std::mt19937 generator_{std::random_device{}()};
  std::atomic<bool> closeSent_ = false;
  std::string tunnelEarly_;        // what came before start()
  Receiver* tunnelled_ = nullptr;  // under tunnel_
  std::mutex tunnel_;

  // The frame that is being received.
  std::string held_;
  std::size_t wanted_ = 2;
  std::uint64_t left_ = 0;
  bool inFrame_ = false;
  std::uint8_t opcode_ = 0;
  bool last_ = false;
  std::string mask_;
  std::size_t maskAt_ = 0;
  std::string control_;
  // The message.
  bool inMessage_ = false;
  std::uint8_t messageOpcode_ = 0;
  std::size_t messageSize_ = 0;
  std::uint32_t channel_ = 0;  // or number of the message
  std::uint32_t messages_ = 0;
  std::string text_;  // base64, and close signals
};

struct WebSocketOpened {
  Answer answer;
  std::string protocol;  // the one chosen
  std::unique_ptr<WebSocketConnection> connection;
};
// Throws Lost when a 101 is no answer to the key.
WebSocketOpened openWebSocket(const std::string& url, const Request& request, Carries carries);
// SPDY in binary messages, sub-protocol SPDY/3.1+portforward.k8s.io.
SpdyOpened openTunnel(const std::string& url);

}  // namespace userpod::streamtest

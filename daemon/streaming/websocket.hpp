// A client's WebSocket (RFC 6455) as messages.
#pragma once

#include <memory>
#include <string>
#include <string_view>

#include "daemon/streaming/asio.hpp"
#include "daemon/streaming/byte_stream.hpp"
#include "daemon/streaming/http.hpp"

namespace userpod::streaming {

// close() sends 1000 and waits for the client's answer.
class WebSocket : public Flow {
 public:
  class Listener {
   public:
    virtual ~Listener() = default;
    // A message comes in parts; only the first has `first`, only the last has `last`.
    virtual void message(std::string_view part, bool first, bool last) = 0;
    virtual void flushed() = 0;
    virtual void gone() = 0;
  };

  // Answers the request with `protocol`, empty: none, and goes on from there.
  virtual void start(Listener& listener) = 0;
  virtual void send(std::string message, bool text) = 0;
};

std::unique_ptr<WebSocket> acceptWebSocket(Socket socket, Request request, std::string protocol);

// Another protocol's bytes in binary messages.
class WebSocketTunnel final : public ByteStream, private WebSocket::Listener {
 public:
  explicit WebSocketTunnel(std::unique_ptr<WebSocket> socket) : socket_(std::move(socket)) {}

  void start(ByteStream::Listener& listener) override;
  bool ready() const override { return socket_->ready(); }
  void write(std::string_view head, std::string_view body) override;
  void hold() override { socket_->hold(); }
  void release() override { socket_->release(); }
  void close() override { socket_->close(); }
  void abort() override { socket_->abort(); }
  Clock::time_point stalledSince() const override { return socket_->stalledSince(); }
  Clock::time_point lastUse() const override { return socket_->lastUse(); }
  void check() override { socket_->check(); }

 private:
  void message(std::string_view part, bool, bool) override { listener_->received(part); }
  void flushed() override { listener_->flushed(); }
  void gone() override { listener_->gone(); }

  std::unique_ptr<WebSocket> socket_;
  ByteStream::Listener* listener_ = nullptr;
};

}  // namespace userpod::streaming

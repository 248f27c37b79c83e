// One client's session, from the upgraded connection to its end.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "daemon/streaming/asio.hpp"
#include "daemon/streaming/connection.hpp"
#include "daemon/streaming/status.hpp"
#include "daemon/streaming/tokens.hpp"

namespace userpod::streaming {

// For a client to open its streams.
inline constexpr std::chrono::seconds kSetUpTime{30};

struct SessionContext {
  core::Streams& core;
  asio::io_context& io;
  std::unique_ptr<Connection> connection;
  StatusFormat format = StatusFormat::Json;
  bool resizes = true;        // the sub-protocol has a stream for a terminal's size
  bool fixedStreams = false;  // they are channels, there from the start
};

class Session : public Connection::Handler, public std::enable_shared_from_this<Session> {
 public:
  explicit Session(SessionContext context)
      : core_(context.core), io_(context.io), connection_(std::move(context.connection)), timer_(io_) {}

  // over: the session is done with; called once, from the loop.
  void start(std::function<void(Session&)> over);
  virtual void check(Clock::time_point now);  // every two seconds
  void abort() { connection_->abort(); }

 protected:
  void gone() final;
  virtual void left() = 0;  // the client has gone
  bool isOver() const { return !over_; }
  virtual std::string describe() const = 0;
  // For callbacks from other threads: runs `function` on the loop, or `otherwise` when the session is over.
  template <typename Function, typename Otherwise>
  auto onLoop(Function function, Otherwise otherwise) {
    return [&io = io_, weak = weak_from_this(), function, otherwise](auto value) {
      auto shared = std::make_shared<decltype(value)>(std::move(value));
      asio::post(io, [weak, function, otherwise, shared] {
        auto self = weak.lock();
        if (self && !self->isOver()) return function(std::move(*shared));
        otherwise(std::move(*shared));
      });
    };
  }
  template <typename Function>
  auto onLoop(Function function) {
    return onLoop(std::move(function), [](const auto&) {});
  }
  void fail(const std::string& why);  // logs and cuts the connection

  core::Streams& core_;
  asio::io_context& io_;
  std::unique_ptr<Connection> connection_;
  asio::steady_timer timer_;

 private:
  std::function<void(Session&)> over_;
};

std::shared_ptr<Session> makeSession(SessionContext context, SessionRequest request);

}  // namespace userpod::streaming

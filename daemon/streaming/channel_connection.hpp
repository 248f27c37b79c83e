// A WebSocket client: each message begins with the number of its channel. All channels are there from the start.
// Sub-protocols: v5.channel.k8s.io (the client ends a channel by the bytes 255, number), v4.channel.k8s.io,
// channel.k8s.io and none; with "base64." numbers are digits and the rest is base64.
#pragma once

#include <set>
#include <vector>

#include "daemon/streaming/connection.hpp"
#include "daemon/streaming/tokens.hpp"
#include "daemon/streaming/websocket.hpp"

namespace userpod::streaming {

struct Channel {
  StreamId id = 0;
  StreamHeaders headers;  // as a SPDY client would open it
  bool fromClient = false;
  bool greets = false;  // sends a message at the start:
  std::string greeting = {};
};

std::vector<Channel> channelsOf(const SessionRequest& request);

class ChannelConnection final : public Connection, private WebSocket::Listener {
 public:
  ChannelConnection(std::unique_ptr<WebSocket> socket, std::vector<Channel> channels, bool base64, bool closeSignals)
      : socket_(std::move(socket)), channels_(std::move(channels)), base64_(base64), closeSignals_(closeSignals) {}

  void start(Handler& handler) override;
  bool ready() const override { return socket_->ready(); }
  void send(StreamId id, std::string_view bytes) override;
  void finish(StreamId id) override { sent_.insert(id); }
  void hold() override { socket_->hold(); }
  void release() override { socket_->release(); }
  void close() override { socket_->close(); }
  void abort() override { socket_->abort(); }
  Clock::time_point stalledSince() const override { return socket_->stalledSince(); }
  Clock::time_point lastUse() const override { return socket_->lastUse(); }
  void check() override { socket_->check(); }

 private:
  void message(std::string_view part, bool first, bool last) override;
  void flushed() override { handler_->flushed(); }
  void gone() override { handler_->gone(); }
  void pass(std::string_view bytes, bool last);
  void endChannel(StreamId id);
  const Channel* channel(StreamId id) const;

  std::unique_ptr<WebSocket> socket_;
  std::vector<Channel> channels_;
  bool base64_;
  bool closeSignals_;
  Handler* handler_ = nullptr;
  bool numbered_ = false;  // the message under way has said its channel:
  StreamId current_ = 0;
  std::string undecoded_;        // less than four characters of base64
  std::set<StreamId> sent_;      // that we have ended
  std::set<StreamId> received_;  // that the client has ended
};

}  // namespace userpod::streaming

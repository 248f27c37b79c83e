// Connections into a pod's network namespace, any number of them on one client's connection.
#pragma once

#include <map>
#include <vector>

#include "daemon/streaming/pump.hpp"
#include "daemon/streaming/session.hpp"

namespace userpod::streaming {

// A pair of streams, data and error, is one TCP connection to localhost in the pod: IPv4 first, then IPv6. Each side
// ends on its own. What goes wrong is a sentence on the error stream, and ends that pair only.
class PortForwardSession final : public Session {
 public:
  PortForwardSession(SessionContext context, PortForward request);

 private:
  struct Tunnel {
    std::string key;  // request id
    std::uint16_t port = 0;
    std::optional<StreamId> data;
    std::optional<StreamId> error;
    Clock::time_point begun = Clock::now();
    std::shared_ptr<Descriptor> connecting;
    std::unique_ptr<Feeder> feeder;
    std::unique_ptr<Pump> pump;
    std::vector<std::string> failures;
    bool clientEnded = false;
    bool podEnded = false;
  };
  using TunnelPointer = std::shared_ptr<Tunnel>;

  bool opened(StreamId id, const StreamHeaders& headers) override;
  void received(StreamId id, std::string_view bytes) override;
  void ended(StreamId id) override;
  void reset(StreamId id) override;
  void flushed() override;
  void left() override {
    byData_.clear();
    tunnels_.clear();
  }
  void check(Clock::time_point now) override;
  std::string describe() const override { return "port-forward to pod " + request_.podId; }

  TunnelPointer byData(StreamId id) const;
  void connect(const TunnelPointer& tunnel);
  void tryNext(const TunnelPointer& tunnel, std::vector<std::pair<std::string, UniqueFd>> sockets);
  void connected(const TunnelPointer& tunnel, std::shared_ptr<Descriptor> socket);
  void podEnded(const TunnelPointer& tunnel);
  void end(const TunnelPointer& tunnel, const std::string& problem);
  bool alive(const TunnelPointer& tunnel) const;

  PortForward request_;
  bool fixed_;  // all streams are there from the start: with the last of them the connection ends
  std::map<std::string, TunnelPointer> tunnels_;  // by key
  std::map<StreamId, TunnelPointer> byData_;
  StreamId served_ = 0;  // whose pump went on last
  int asking_ = 0;       // sockets that the core has not made yet
};

}  // namespace userpod::streaming

// The CRI on a socket of the user: a gRPC server of the two services, for processes of this user only.
#pragma once

#include <chrono>
#include <functional>
#include <memory>
#include <string>

#include "daemon/core/core.hpp"
#include "daemon/streaming/streaming.hpp"
#include "daemon/sys/fd.hpp"

namespace userpod::cri {

// See acceptor.hpp.
Result<UniqueFd> openListener(const std::string& path);

class Server {
 public:
  // listener: a listening stream socket, from systemd or from openListener(). The core and the streaming server outlive
  // the server; without a streaming server Exec, Attach and PortForward answer UNAVAILABLE.
  static Result<std::unique_ptr<Server>> start(core::Core& core, streaming::Server* streaming, UniqueFd listener);
  ~Server();  // stop() without grace, if it has not been called

  // Answered by a call of Version to itself that goes the way of all calls: the watchdog asks whether they are served.
  // Not after stop().
  void ping(std::function<void()> answer);
  // No new connections or calls; waits for the calls under way, at most `grace`, then answers them UNAVAILABLE. The
  // core's work goes on: a later callback finds its call answered. Blocks; any thread but gRPC's and the core's.
  void stop(std::chrono::milliseconds grace);

 private:
  struct Parts;
  explicit Server(std::unique_ptr<Parts> parts);
  std::unique_ptr<Parts> parts_;
};

}  // namespace userpod::cri

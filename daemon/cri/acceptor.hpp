// The accept loop of the CRI socket: who may connect is decided before gRPC sees the connection.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "daemon/sys/executor.hpp"
#include "daemon/sys/fd.hpp"

namespace userpod::cri {

// Listens at path, mode 0600 from its first moment on. A socket that nobody serves any more is replaced; one that is
// served is Busy, anything else at the path InvalidState. For a run without socket activation.
Result<UniqueFd> openListener(const std::string& path);

// Accepts on a thread of its own and hands over connections of this user only, non-blocking. Others are closed and
// logged. `handOver` runs on that thread.
class Acceptor {
 public:
  static Result<std::unique_ptr<Acceptor>> start(UniqueFd listener, std::function<void(UniqueFd)> handOver);
  ~Acceptor() { stop(); }
  void stop();  // no connection is handed over afterwards; the listener is closed

 private:
  Acceptor(UniqueFd listener, std::function<void(UniqueFd)> handOver)
      : listener_(std::move(listener)), handOver_(std::move(handOver)) {}
  Status watch();
  void acceptAll();
  void pause(int reason);

  UniqueFd listener_;
  std::function<void(UniqueFd)> handOver_;
  bool starved_ = false;  // the shortage has been logged
  std::unique_ptr<EventLoop> loop_;
};

}  // namespace userpod::cri

// The streaming server: what Exec, Attach and PortForward of the CRI give a URL for. HTTP/1.1 on loopback, upgraded to
// SPDY/3.1 or WebSocket by kubectl, kubelet, crictl and API servers.
// Facts: the remote command and port-forward protocols of Kubernetes (k8s.io/streaming), RFC 6455, SPDY/3.1.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "daemon/core/core.hpp"

namespace userpod::streaming {

// Listens on 127.0.0.1 in the host's network namespace and, at the same port, in the node's. One thread carries all
// sessions. Methods may be called from any thread.
//
// Any user of the machine can connect to the port, so a URL is a secret: it holds 256 random bits, is good for one
// request within one minute, and at most 1,000 wait at once.
class Server {
 public:
  // The core is there until stop() has returned, and the server until the core is gone: that answers late.
  // NetworkSetupFailed: no port. System: no descriptor or
  // thread is left.
  static Result<std::unique_ptr<Server>> start(core::Streams& core);
  ~Server();  // stop()

  // A URL ("http://127.0.0.1:PORT/exec/TOKEN") for one session. The caller has checked the request.
  // LimitsExceeded: 1,000 URLs wait already.
  Result<std::string> exec(const std::string& containerId, core::ExecRequest request);
  // What of the container's streams is carried.
  struct AttachRequest {
    bool tty = false;
    bool in = false;
    bool out = false;
    bool err = false;
  };
  Result<std::string> attach(const std::string& containerId, AttachRequest request);
  // ports: those of WebSocket clients that name none themselves.
  Result<std::string> portForward(const std::string& podId, std::vector<std::uint16_t> ports);

  // Ends every session and the thread. Blocks.
  void stop();

 private:
  class Impl;
  explicit Server(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace userpod::streaming

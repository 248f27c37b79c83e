// The bare part of port-forward: a server in a pod's network, and a proxy of splice(2) before it.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <string>
#include <thread>

#include "daemon/sys/fd.hpp"

namespace userpod::bench {

// A TCP socket made in that network namespace, or in the caller's if the path is empty.
Result<UniqueFd> tcpSocketIn(const std::string& networkNamespace);

// 127.0.0.1 of a network namespace. A socket stays in the one it was made in.
Result<UniqueFd> listenIn(const std::string& networkNamespace, std::uint16_t& port);
Result<std::uint16_t> freePort();  // of the caller's namespace, for now
Result<UniqueFd> connectIn(const std::string& networkNamespace, std::uint16_t port);

// Serves one connection after the other, in a thread of its own: to the byte 'S' it answers with `bytes` bytes; after
// 'R' it takes all that comes, and says 'k' when so many have come and the client has ended its side.
class ByteServer {
 public:
  static Result<std::unique_ptr<ByteServer>> start(const std::string& networkNamespace, std::uint64_t bytes);
  ~ByteServer();
  std::uint16_t port() const { return port_; }

 private:
  ByteServer() = default;
  void serve(int connection) const;

  UniqueFd listener_;
  std::uint16_t port_ = 0;
  std::uint64_t bytes_ = 0;
  std::thread thread_;
};

// Takes connections on 127.0.0.1 of the caller's network, one after the other, and splices each to the port in the
// namespace: a thread and a pipe for each direction.
class SpliceProxy {
 public:
  static Result<std::unique_ptr<SpliceProxy>> start(const std::string& networkNamespace, std::uint16_t port);
  ~SpliceProxy();
  std::uint16_t port() const { return port_; }

 private:
  SpliceProxy() = default;

  UniqueFd listener_;
  std::uint16_t port_ = 0;
  std::thread thread_;
};

}  // namespace userpod::bench

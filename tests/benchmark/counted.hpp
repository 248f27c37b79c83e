// A way to the registry that counts what comes by it.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <thread>

#include "daemon/sys/fd.hpp"

namespace userpod::bench {

// Takes connections on 127.0.0.1, a thread for each direction of each, and passes them on to another port there.
class CountedWay {
 public:
  static Result<std::unique_ptr<CountedWay>> open(std::uint16_t to);
  ~CountedWay();  // cuts what is still open

  std::uint16_t port() const { return port_; }
  std::uint64_t bytes() const { return bytes_; }  // that the server has sent

 private:
  CountedWay() = default;
  void serve(std::uint16_t to);

  UniqueFd listener_;
  std::uint16_t port_ = 0;
  std::atomic<std::uint64_t> bytes_ = 0;
  std::jthread thread_;
};

}  // namespace userpod::bench

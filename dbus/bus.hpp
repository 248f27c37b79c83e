// The bus front end: org.userpod1 on the user's session bus, a translation of the core and nothing more.
//
// One thread, one connection, which another thread opens. The CRI does not need it: without a bus, after its end, or
// while another process has the name, it tries again by itself, from one second to thirty apart.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "daemon/core/core.hpp"
#include "daemon/sys/executor.hpp"

namespace sdbus {
class IConnection;
}

namespace userpod::bus {

class Courier;
class Front;
class LogControl;

class Bus {
 public:
  // Begins, and returns at once: an error means that there is no thread to be had, never that there is no bus. The core
  // outlives the Bus.
  static Result<std::unique_ptr<Bus>> start(core::Core& core);
  // Answers what waits with Canceled and leaves the bus. Not from a callback of the core.
  ~Bus();
  // Answered on the bus thread: the watchdog asks whether it still moves. Any thread.
  void ping(std::function<void()> answer);
  // Whether the bus thread is held up by the bus, which it asks for the name: libsystemd waits up to 25 seconds. Any
  // thread.
  bool asking() const { return asking_; }
  Bus(const Bus&) = delete;
  Bus& operator=(const Bus&) = delete;

 private:
  explicit Bus(core::Core& core);
  // All on the bus thread.
  void connect();
  void connected(std::unique_ptr<sdbus::IConnection> connection);
  void disconnect();
  void lost(const std::string& why);
  void retry(void (Bus::*action)());
  void claimName();
  void pump();
  void watchConnection();

  core::Core& core_;
  std::unique_ptr<EventLoop> loop_;
  std::shared_ptr<Courier> courier_;
  std::atomic<bool> asking_ = false;
  // Below: bus thread only.
  std::shared_ptr<const core::Snapshot> latest_;  // of the last change: where a new connection begins
  std::unique_ptr<sdbus::IConnection> connection_;
  std::unique_ptr<LogControl> logControl_;
  std::unique_ptr<Front> front_;
  int retrySeconds_ = 1;
  std::string problem_;  // logged last, so that a retry does not repeat it
  int watchedFd_ = -1;
  std::uint32_t watchedEvents_ = 0;
  EventLoop::TimerId timer_ = 0;  // of libsystemd's own timeouts
  EventLoop::TimerId retryTimer_ = 0;
};

}  // namespace userpod::bus

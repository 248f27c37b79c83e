// The secrets in the URLs of sessions that have not begun.
#pragma once

#include <chrono>
#include <list>
#include <mutex>
#include <optional>
#include <string>
#include <variant>

#include "daemon/streaming/streaming.hpp"

namespace userpod::streaming {

struct Exec {
  std::string containerId;
  core::ExecRequest request;
};
struct Attach {
  std::string containerId;
  Server::AttachRequest request;
};
struct PortForward {
  std::string podId;
  std::vector<std::uint16_t> ports;
};
using SessionRequest = std::variant<Exec, Attach, PortForward>;

// Any thread.
class Tokens {
 public:
  using Clock = std::chrono::steady_clock;
  static constexpr std::chrono::seconds kLifetime{60};
  static constexpr std::size_t kMost = 1000;

  // LimitsExceeded when kMost wait.
  Result<std::string> add(SessionRequest request, Clock::time_point now = Clock::now());
  // The request behind the token, which stays good.
  std::optional<SessionRequest> find(std::string_view token, Clock::time_point now = Clock::now());
  // The token ends. False when somebody else was faster.
  bool consume(std::string_view token);

 private:
  struct Pending {
    std::string token;
    Clock::time_point end;
    SessionRequest request;
  };
  using Position = std::list<Pending>::iterator;
  Position search(std::string_view token);
  void dropOld(Clock::time_point now);

  std::mutex mutex_;
  std::list<Pending> pending_;  // oldest first
};

}  // namespace userpod::streaming

// What userpod-ports serves: the mappings of pods, as its threads share them.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>

#include "daemon/network/ports/endpoint.hpp"

namespace userpod::ports {

// Bytes that a socket takes beyond what its peer's window has room for: the kernel's own limit is megabytes.
inline constexpr int kUnsentLimit = 512 << 10;

struct Counters {
  std::atomic<std::uint64_t> open = 0;
  std::atomic<std::uint64_t> total = 0;
};

// Where one mapping leads. Never changed after it was made: a replaced one stays with its connections.
struct Service {
  std::string podId;
  bool nodeNetwork = false;
  std::optional<Endpoint> v4;  // of the pod, with its port; at least one of them is there
  std::optional<Endpoint> v6;
  std::shared_ptr<Counters> counters = std::make_shared<Counters>();

  const Endpoint& target(int clientFamily) const {
    if (clientFamily == AF_INET6) return v6 ? *v6 : *v4;
    return v4 ? *v4 : *v6;
  }
};
using ServicePointer = std::shared_ptr<const Service>;

}  // namespace userpod::ports

// When a request that failed is sent again.
#pragma once

#include <chrono>
#include <cstdint>
#include <optional>

namespace userpod::images {

enum class Trouble : std::uint8_t {
  None,
  NoConnection,  // refused, unreachable, no such name, or too slow
  NoTls,         // what is there does not speak it
  Broken,        // the connection ended within the answer
  Stalled,       // (almost) nothing came for too long
  WrongRange,    // a resumed answer starts elsewhere
  BadStatus,     // 408, 429, 5xx
};

// Of one request. Bounded: a few tries in a row that bring nothing, and some more altogether.
class Retries {
 public:
  static constexpr std::chrono::seconds kLongestWait{60};  // that a server may ask for

  // How long to wait before the next try, with jitter; nothing: no more. `received`: bytes that this try brought;
  // `after`: what the server asked for.
  std::optional<std::chrono::milliseconds> next(Trouble trouble, std::uint64_t received,
                                                std::optional<std::chrono::seconds> after);

 private:
  int tries_ = 0;
  int fruitless_ = 0;
};

}  // namespace userpod::images

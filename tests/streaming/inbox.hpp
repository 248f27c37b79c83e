// What a connection has received, by stream and in order, to be looked at and waited for by a test.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <functional>
#include <map>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "tests/streaming/http.hpp"

namespace userpod::streamtest {

struct Stream {
  bool replied = false;   // SYN_REPLY
  bool opened = false;    // SYN_STREAM of the other side
  bool finished = false;  // the other side sends no more
  std::optional<std::uint32_t> reset;
  Headers headers;          // of the reply, or of the opening
  std::uint64_t bytes = 0;  // all that came
  std::string data;         // unless a sink takes it
};

enum class What { Open, Reply, Data, Empty, Finish, Reset, Ping, GoAway, Other, Close };
struct Event {
  What what;
  std::uint32_t stream = 0;  // or channel
  std::uint64_t value = 0;   // bytes (of Data on end), status, id of a ping, type of another frame

  bool operator==(const Event&) const = default;
};

struct Inventory {
  std::map<std::uint32_t, Stream> streams;
  std::vector<Event> events;
  std::vector<std::string> faults;  // of the other side against the protocol
  std::optional<int> closeCode;     // WebSocket; 1005: a close frame without one
  std::string closeReason;
  std::optional<std::string> ended;  // the connection is gone: why, "" in good order

  const Stream& stream(std::uint32_t id) const;  // an empty one if nothing came
  bool has(const Event& event) const;
};

// Locks by itself; any thread.
class Inbox {
 public:
  using Sink = std::function<void(std::string_view)>;

  // ---- For tests
  Inventory now() const;  // a copy
  // f(const Inventory&), without a copy; it must not block.
  template <typename F>
  auto look(F f) const {
    std::lock_guard lock(mutex_);
    return f(inventory_);
  }
  // False when the time was over. The condition is asked again after each change.
  bool wait(milliseconds time, const std::function<bool(const Inventory&)>& condition) const;
  // From now on a stream's bytes go there, by the link's thread, instead of into `data`.
  void setSink(std::uint32_t stream, Sink sink);
  std::string take(std::uint32_t stream);  // what came so far, which is then forgotten

  // ---- For the protocols
  void data(std::uint32_t stream, std::string_view bytes);
  void event(Event event);  // and what it means for its stream
  void headers(std::uint32_t stream, Headers headers);
  void fault(std::string text);
  void closed(int code, std::string reason);
  void ended(const std::string& why);

 private:
  mutable std::mutex mutex_;
  mutable std::condition_variable changed_;
  Inventory inventory_;
  std::map<std::uint32_t, Sink> sinks_;
};

}  // namespace userpod::streamtest

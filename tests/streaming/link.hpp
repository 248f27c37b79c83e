// A TCP connection that hands what comes to a receiver, and the same seen from above: what a stream protocol is carried
// by, a socket or another stream protocol (SPDY through WebSocket messages).
#pragma once

#include <atomic>
#include <mutex>
#include <string>
#include <string_view>
#include <thread>

#include "daemon/sys/fd.hpp"
#include "tests/streaming/http.hpp"

namespace userpod::streamtest {

// Called by the link's thread alone, in order; ended() is the last call.
class Receiver {
 public:
  virtual ~Receiver() = default;
  virtual void receive(std::string_view bytes) = 0;
  virtual void ended(const std::string& why) = 0;  // "": in good order
};

enum class Drop { Fin, Reset };

class Link {
 public:
  virtual ~Link() = default;
  // What was read with the answer of HTTP comes first.
  virtual void start(Receiver& receiver, std::string first) = 0;
  // All of both, in one piece between other calls; blocks for 30 s at most, then it throws Lost. Any thread.
  virtual void send(std::string_view head, std::string_view body = {}) = 0;
  // For answers that the receiver's thread gives: goes at once or with the next send, never blocks.
  virtual void offer(std::string_view bytes) = 0;
  // Stops and goes on reading; what is buffered by the kernel comes afterwards.
  virtual void pause(bool paused) = 0;
  virtual void endOutput() = 0;  // half a close of TCP
  // Does not close its side when the server has closed its own, as clients do.
  virtual void stay() = 0;
  // Ends the connection without a goodbye and waits for the receiver's thread.
  virtual void drop(Drop how) = 0;
};

class SocketLink final : public Link {
 public:
  explicit SocketLink(UniqueFd socket);
  ~SocketLink() override { drop(Drop::Fin); }

  void start(Receiver& receiver, std::string first) override;
  void send(std::string_view head, std::string_view body = {}) override;
  void offer(std::string_view bytes) override;
  void pause(bool paused) override;
  void endOutput() override;
  void stay() override { stays_ = true; }
  void drop(Drop how) override;

 private:
  void run(Receiver& receiver, const std::string& first);
  void wake();
  void sendLocked(std::string_view bytes);

  UniqueFd socket_;
  UniqueFd wake_;
  std::atomic<bool> paused_ = false;
  std::atomic<bool> stopped_ = false;
  std::atomic<bool> stays_ = false;
  std::mutex sending_;
  std::mutex offering_;
  std::string offered_;
  std::thread thread_;
};

}  // namespace userpod::streamtest

// Between a client's streams and the descriptors of a process or of a pod's socket.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "daemon/streaming/asio.hpp"
#include "daemon/streaming/connection.hpp"
#include "daemon/sys/fd.hpp"

namespace userpod::streaming {

// A pipe, a terminal or a socket, non-blocking; a pump and a feeder may share one. Closed with the last of them.
using Descriptor = asio::posix::stream_descriptor;
std::shared_ptr<Descriptor> watched(asio::io_context& io, UniqueFd fd);

// From a descriptor to the client, no faster than the client reads.
class Pump {
 public:
  // done: at the descriptor's end, or the cut; from the loop, once.
  Pump(std::shared_ptr<Descriptor> from, Connection& to, StreamId id, std::function<void()> done);
  ~Pump() { stop(); }
  Pump(const Pump&) = delete;
  Pump& operator=(const Pump&) = delete;

  void start() { wait(); }
  bool blocked() const { return blocked_; }
  void flushed();                      // the connection is ready again
  std::shared_ptr<Descriptor> stop();  // without done
  // The writer has ended: what it has written is owed, and after cut() nothing else is waited for.
  void noteOwed(bool terminal);
  void cut();

 private:
  void wait();
  void move();
  void finish();

  std::shared_ptr<Descriptor> from_;
  Connection& to_;
  StreamId id_;
  std::function<void()> done_;
  std::size_t owed_ = 0;
  bool cut_ = false;
  bool blocked_ = false;  // until flushed()
  std::shared_ptr<bool> alive_ = std::make_shared<bool>(true);
};

// From the client to a descriptor. What that does not take at once waits here, and the connection is held: no more than
// one read of it is kept, and before the start a chunk more.
class Feeder {
 public:
  enum class End { Close, HalfClose, Nothing };  // what the client's end does to the descriptor
  // atOnce: the largest write, where the descriptor keeps them apart.
  Feeder(Connection& from, End end, std::size_t atOnce = kChunk) : from_(from), end_(end), atOnce_(atOnce) {}
  ~Feeder() { stop(); }
  Feeder(const Feeder&) = delete;
  Feeder& operator=(const Feeder&) = delete;

  void start(std::shared_ptr<Descriptor> to);  // before, everything waits
  void take(std::string_view bytes);
  bool idle() const { return waiting_.empty(); }
  void end();
  void stop();  // throws away what waits and what comes

 private:
  void write();
  bool put(std::string_view& bytes);  // takes off what was written; false: nobody reads it any more
  void finish();

  Connection& from_;
  End end_;
  std::size_t atOnce_;
  std::shared_ptr<Descriptor> to_;
  std::string waiting_;
  bool ended_ = false;
  bool stopped_ = false;
  bool holding_ = false;
  bool writing_ = false;  // a wait for writable is under way
  std::shared_ptr<bool> alive_ = std::make_shared<bool>(true);
};

}  // namespace userpod::streaming

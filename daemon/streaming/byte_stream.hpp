// The connection to a client as bytes: a TCP socket, or a WebSocket that carries another protocol.
#pragma once

#include <chrono>
#include <string_view>

namespace userpod::streaming {

// What a connection is however its bytes are put together: whether it takes more, and its end.
class Flow {
 public:
  virtual ~Flow() = default;

  // Nothing waits to be sent: only then more than answers should be written.
  virtual bool ready() const = 0;
  // Counted: reads nothing while held. A client that goes away meanwhile is noticed within seconds.
  virtual void hold() = 0;
  virtual void release() = 0;
  // Sends what waits, tells the client that this was all, and waits a while for its end.
  virtual void close() = 0;
  // At once; what waits is lost. The listener's gone() follows.
  virtual void abort() = 0;
  // Since when the client has taken nothing of what waits; the far future when nothing waits.
  virtual std::chrono::steady_clock::time_point stalledSince() const = 0;
  // When something last went either way.
  virtual std::chrono::steady_clock::time_point lastUse() const = 0;
  // Called every two seconds.
  virtual void check() = 0;
};

class ByteStream : public Flow {
 public:
  class Listener {
   public:
    virtual ~Listener() = default;
    virtual void received(std::string_view bytes) = 0;
    virtual void flushed() = 0;  // ready() again
    virtual void gone() = 0;     // the client has ended, or close() is done. Once, and the last call.
  };

  virtual void start(Listener& listener) = 0;
  virtual void write(std::string_view head, std::string_view body = {}) = 0;
};

}  // namespace userpod::streaming

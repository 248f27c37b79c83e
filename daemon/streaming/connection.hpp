// A client's connection as numbered streams: those of SPDY, or the channels of a WebSocket.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <string_view>

#include "daemon/streaming/byte_stream.hpp"

namespace userpod::streaming {

using StreamId = std::uint32_t;
using StreamHeaders = std::map<std::string, std::string, std::less<>>;  // names in lower case

class Connection : public Flow {
 public:
  class Handler {
   public:
    virtual ~Handler() = default;
    // The client wants a stream; false refuses it.
    virtual bool opened(StreamId id, const StreamHeaders& headers) = 0;
    // The handler takes all; one that cannot pass it on calls hold().
    virtual void received(StreamId id, std::string_view bytes) = 0;
    virtual void ended(StreamId id) = 0;  // the client sends no more on it
    virtual void reset(StreamId id) = 0;  // the client wants no more of it
    virtual void flushed() = 0;           // ready() again
    virtual void gone() = 0;              // of the whole connection. Once, and the last call.
  };

  virtual void start(Handler& handler) = 0;
  virtual void send(StreamId id, std::string_view bytes) = 0;  // below 16 MiB; nothing on a stream that has ended
  virtual void finish(StreamId id) = 0;                        // no more will be sent on it
};

}  // namespace userpod::streaming

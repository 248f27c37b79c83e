// SPDY/3.1 framing, as much of it as the Kubernetes clients speak: bytes in, events out, and the frames to answer with.
// No I/O. What the SPDY draft calls flow control is not there: clients of Kubernetes ignore it.
#pragma once

#include <zlib.h>

#include <cstdint>
#include <map>
#include <string>
#include <string_view>

#include "daemon/sys/error.hpp"

namespace userpod::streaming::spdy {

using Headers = std::map<std::string, std::string, std::less<>>;  // names in lower case

inline constexpr std::size_t kMaxHeaderBlock = 16 << 10;  // bytes, compressed and not

// Status of RST_STREAM.
enum class Reset : std::uint32_t { InvalidStream = 2, RefusedStream = 3 };

// What arrives. Ids are checked: those of synStream are odd and rise.
class Events {
 public:
  virtual ~Events() = default;
  virtual void synStream(std::uint32_t id, Headers headers) = 0;
  virtual void data(std::uint32_t id, std::string_view bytes) = 0;  // a frame may come in parts
  virtual void end(std::uint32_t id) = 0;                           // FIN, of a SYN_STREAM or a DATA frame
  virtual void rstStream(std::uint32_t id) = 0;
  virtual void ping(std::uint32_t id) = 0;
  virtual void goAway() = 0;
};

// One direction of one connection.
class Decoder {
 public:
  explicit Decoder(Events& events) : events_(events) {}
  Decoder(const Decoder&) = delete;
  Decoder& operator=(const Decoder&) = delete;
  ~Decoder();

  // InvalidArgument: the peer does not speak the protocol; nothing after it makes sense. Holds at most one control
  // frame (kMaxHeaderBlock); DATA is passed on as it comes.
  Status feed(std::string_view bytes);

 private:
  Status frameHead();
  Status controlFrame();
  Status synStream(std::string_view payload);
  Result<std::string> inflate(std::string_view block);
  Result<Headers> headers(std::string_view block);

  Events& events_;
  std::string held_;        // a frame's head, then a control frame's payload
  std::uint32_t left_ = 0;  // bytes of the frame still to come
  enum class State { Head, Control, Skip, Data } state_ = State::Head;
  std::uint16_t type_ = 0;  // of a control frame
  std::uint8_t flags_ = 0;
  std::uint32_t stream_ = 0;  // of a DATA frame
  std::uint32_t lastStream_ = 0;
  z_stream zlib_{};
  bool inflating_ = false;
};

// Frames to send.
std::string dataHead(std::uint32_t id, std::size_t size, bool fin);  // size below 16 MiB
std::string rstStream(std::uint32_t id, Reset status);
std::string ping(std::uint32_t id);
std::string goAway(std::uint32_t lastStream, bool protocolError);

// SYN_REPLY without headers. All header blocks of a connection are one zlib stream: hence an object.
class ReplyEncoder {
 public:
  std::string synReply(std::uint32_t id);

 private:
  bool begun_ = false;
};

// The dictionary that header blocks are compressed with (SPDY/3 draft, 2.6.10.1).
const std::string& dictionary();

}  // namespace userpod::streaming::spdy

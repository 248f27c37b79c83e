// SPDY/3.1 over a link, both sides of it: framing, header blocks, streams. Written for tests: everything can be sent,
// also what the protocol forbids, and everything that comes is kept.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "tests/streaming/http.hpp"
#include "tests/streaming/inbox.hpp"
#include "tests/streaming/link.hpp"

namespace userpod::streamtest {

namespace spdy {

enum Type : std::uint16_t {
  SynStream = 1,
  SynReply = 2,
  RstStream = 3,
  Settings = 4,
  Ping = 6,
  GoAway = 7,
  Headers_ = 8,
  WindowUpdate = 9,
};
constexpr std::uint8_t kFin = 1;
constexpr std::uint8_t kUnidirectional = 2;
constexpr std::uint32_t kProtocolError = 1;
constexpr std::uint32_t kCancel = 5;
constexpr std::uint16_t kVersion = 3;

const std::string& dictionary();  // for header blocks, of the specification
std::string number16(std::uint16_t value);
std::string number24(std::uint32_t value);
std::string number32(std::uint32_t value);
std::string controlFrame(std::uint16_t type, std::uint8_t flags, std::string_view payload,
                         std::uint16_t version = kVersion);
std::string dataHead(std::uint32_t stream, std::uint8_t flags, std::uint32_t length);
std::string headerText(const Headers& headers);  // of a header block, not compressed

// The compressed header blocks of one direction.
class Deflater {
 public:
  Deflater();
  ~Deflater();
  Deflater(const Deflater&) = delete;
  Deflater& operator=(const Deflater&) = delete;
  std::string compress(std::string_view text);

 private:
  struct State;
  std::unique_ptr<State> state_;
};
class Inflater {
 public:
  Inflater();
  ~Inflater();
  Inflater(const Inflater&) = delete;
  Inflater& operator=(const Inflater&) = delete;
  Headers decompress(std::string_view block);  // throws std::runtime_error

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace spdy

// Sends by any thread; streams are opened by one at a time. PINGs of the other side are answered.
class SpdyConnection final : public Receiver {
 public:
  // `server`: the side that takes streams with odd ids and opens even ones.
  SpdyConnection(std::unique_ptr<Link> link, std::string first = {}, bool server = false);
  ~SpdyConnection() override;

  // The next stream of this side; its id.
  std::uint32_t open(const Headers& headers, std::uint8_t flags = 0);
  void openAs(std::uint32_t id, const Headers& headers, std::uint8_t flags = 0);
  // Of a block that is sent as it is: whatever is no header block.
  void openWithBlock(std::uint32_t id, std::string_view block, std::uint8_t flags = 0);
  void reply(std::uint32_t id, const Headers& headers, std::uint8_t flags = 0);
  // In frames of at most 64 KiB, or as given: frame sizes are up to 2^24 - 1.
  void send(std::uint32_t id, std::string_view bytes, std::size_t frame = 64 << 10);
  void finish(std::uint32_t id, std::string_view last = {});
  void reset(std::uint32_t id, std::uint32_t status = spdy::kCancel);
  void ping(std::uint32_t id);
  void goAway(std::uint32_t lastStream, std::uint32_t status = 0);
  void settings(std::uint32_t id, std::uint32_t value);
  void windowUpdate(std::uint32_t id, std::uint32_t delta);
  void raw(std::string_view bytes) { link_->send(bytes); }
  std::string block(const Headers& headers) { return deflater_.compress(spdy::headerText(headers)); }

  Link& link() { return *link_; }
  Inbox& inbox() { return inbox_; }

  void receive(std::string_view bytes) override;
  void ended(const std::string& why) override { inbox_.ended(why); }

 private:
  void takeHead();
  void takeControl(std::string_view payload);

  std::unique_ptr<Link> link_;
  Inbox inbox_;
  spdy::Deflater deflater_;
  std::uint32_t nextId_;
  bool server_;

  // The frame that is being received.
  spdy::Inflater inflater_;
  std::string held_;        // its head, or what has come of a control frame
  std::size_t wanted_ = 8;  // so long is held_ when it is complete
  std::size_t left_ = 0;    // of a data frame
  std::uint32_t stream_ = 0;
  bool finish_ = false;
};

// A connection to a URL, and the answer to its request; none when the answer was not 101.
struct SpdyOpened {
  Answer answer;
  std::unique_ptr<SpdyConnection> connection;
};
SpdyOpened openSpdy(const std::string& url, const Request& request);

}  // namespace userpod::streamtest

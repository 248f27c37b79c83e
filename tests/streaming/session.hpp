// Sessions of exec and attach, and forwarded ports, whatever they are carried by: a test is written once and runs over
// each protocol. Clients behave as client-go does.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "tests/streaming/spdy_client.hpp"
#include "tests/streaming/websocket_client.hpp"

namespace userpod::streamtest {

// ---- Exec and attach

struct Protocol {
  std::string name;                   // as part of a test's name
  std::vector<std::string> asked;     // sub-protocols, in the client's order
  std::string chosen;                 // what the server must choose
  bool spdy = true;                   // or WebSocket
  Carries carries = Carries::Tunnel;  // of WebSocket
  bool json = false;                  // the end is told by a Status in JSON, else by text
  bool resizes = false;               // terminals can be resized
  bool endsInput = false;             // stdin can be ended while the session goes on
};
const std::vector<Protocol>& protocols();
const Protocol& protocol(const std::string& name);

enum class Channel : std::uint8_t { In = 0, Out = 1, Err = 2, Error = 3, Resize = 4 };

struct Streams {
  bool in = false;
  bool out = true;
  bool err = true;
  bool tty = false;
};

// What a session has come to.
struct Outcome {
  bool ended = false;  // told by the protocol, in time
  std::string out;
  std::string err;
  std::string error;  // the error stream, as it came
  bool success = false;
  std::optional<int> code;  // 0 with success; none where the protocol does not say it as a number
  std::string reason;       // of the Status
  std::string message;
  Inventory inventory;  // without the data; its faults must be none
};

class Session {
 public:
  // Asks and opens the streams; throws Lost when the answer is not that of the protocol.
  static std::unique_ptr<Session> open(const Protocol& protocol, const std::string& url, const Streams& streams);
  virtual ~Session() = default;

  const Protocol& protocol() const { return protocol_; }
  void write(std::string_view bytes) { send(Channel::In, bytes); }
  virtual void send(Channel channel, std::string_view bytes) = 0;
  virtual void endInput() = 0;  // throws std::logic_error where the protocol cannot
  void resize(int columns, int rows);
  virtual void ping() = 0;
  virtual bool pingAnswered(milliseconds time) = 0;

  std::string out() const { return data(Channel::Out); }
  std::string err() const { return data(Channel::Err); }
  std::string data(Channel channel) const;
  std::uint64_t bytes(Channel channel) const;  // also those that a sink took
  // Until the text is in what came on stdout (stderr...) so far; throws Lost after the time.
  void waitFor(const std::string& text, Channel channel = Channel::Out, milliseconds time = milliseconds(20'000)) const;
  void setSink(Channel channel, Inbox::Sink sink) { inbox().setSink(key(channel), std::move(sink)); }
  // Until the server has told of the end; then says goodbye as clients do.
  Outcome finish(milliseconds time = milliseconds(30'000));
  bool over(milliseconds time) const;  // has the server told of the end?
  // The connection is gone, whatever becomes of it; waits for nothing.
  bool lost(milliseconds time) const;
  void drop(Drop how = Drop::Fin) { link().drop(how); }
  void pause(bool paused) { link().pause(paused); }

  virtual Inbox& inbox() const = 0;
  virtual Link& link() = 0;
  virtual std::uint32_t key(Channel channel) const = 0;  // of the inbox

 protected:
  Session(const Protocol& protocol, const Streams& streams) : protocol_(protocol), streams_(streams) {}
  virtual bool toldOfTheEnd(const Inventory& now) const = 0;
  virtual void goodbye() = 0;

  Protocol protocol_;
  Streams streams_;
};

// The streams of a session over SPDY, as client-go opens them; resize: sent together with the streams.
struct SpdyStreams {
  std::uint32_t error = 0, in = 0, out = 0, err = 0, resize = 0;
};
SpdyStreams openStreams(SpdyConnection& connection, const Protocol& protocol, const Streams& streams,
                        const std::string& resize = {});

// ---- Port-forward

struct ForwardProtocol {
  std::string name;
  std::vector<std::string> asked;
  std::string chosen;
  bool spdy = true;
  bool tunnel = false;                // SPDY through WebSocket
  Carries carries = Carries::Tunnel;  // of WebSocket
};
const std::vector<ForwardProtocol>& forwardProtocols();
const ForwardProtocol& forwardProtocol(const std::string& name);

// A session of port-forward. Its connections are numbers.
class Forward {
 public:
  // ports: those of the request, which are the channels of WebSocket.
  static std::unique_ptr<Forward> open(const ForwardProtocol& protocol, const std::string& url,
                                       const std::vector<std::uint16_t>& ports);
  virtual ~Forward() = default;

  // SPDY: a new connection. WebSocket: the channels of that port, once each.
  virtual std::size_t connect(std::uint16_t port) = 0;
  virtual void write(std::size_t connection, std::string_view bytes) = 0;
  virtual void finish(std::size_t connection) = 0;  // half a close; throws std::logic_error over WebSocket
  bool halfCloses() const { return protocol_.spdy; }

  std::string data(std::size_t connection) const;
  std::string error(std::size_t connection) const;
  void waitFor(std::size_t connection, const std::string& text) const;  // throws Lost
  bool waitForBytes(std::size_t connection, std::uint64_t bytes, milliseconds time) const;
  bool waitForError(std::size_t connection, milliseconds time) const;
  // The server sends no more on its data stream, by FIN, reset, or the end of the connection.
  bool waitForEnd(std::size_t connection, milliseconds time) const;
  std::vector<std::string> faults() const;

  virtual Inbox& inbox() const = 0;
  virtual Link& link() = 0;
  struct Keys {
    std::uint32_t data = 0, error = 0;
  };
  Keys keys(std::size_t connection) const { return connections_.at(connection); }

 protected:
  explicit Forward(const ForwardProtocol& protocol) : protocol_(protocol) {}
  // Before the data of a stream: the port, in WebSocket.
  virtual std::size_t prefix() const = 0;

  ForwardProtocol protocol_;
  std::vector<Keys> connections_;
};

}  // namespace userpod::streamtest

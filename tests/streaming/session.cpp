#include "tests/streaming/session.hpp"

#include <algorithm>
#include <nlohmann/json.hpp>

namespace userpod::streamtest {
namespace {

const std::string kV1 = "channel.k8s.io";
const std::string kV2 = "v2.channel.k8s.io";
const std::string kV3 = "v3.channel.k8s.io";
const std::string kV4 = "v4.channel.k8s.io";
const std::string kV5 = "v5.channel.k8s.io";

class SpdySession final : public Session {
 public:
  SpdySession(const Protocol& protocol, const Streams& streams, std::unique_ptr<SpdyConnection> connection)
      : Session(protocol, streams), connection_(std::move(connection)) {
    ids_ = openStreams(*connection_, protocol, streams);
  }

  void send(Channel channel, std::string_view bytes) override { connection_->send(key(channel), bytes); }
  void endInput() override { connection_->finish(ids_.in); }
  void ping() override { connection_->ping(ping_ += 2); }
  bool pingAnswered(milliseconds time) override {
    return inbox().wait(time, [&](const auto& now) { return now.has({What::Ping, 0, ping_}); });
  }

  Inbox& inbox() const override { return connection_->inbox(); }
  Link& link() override { return connection_->link(); }
  std::uint32_t key(Channel channel) const override {
    const std::uint32_t ids[] = {ids_.in, ids_.out, ids_.err, ids_.error, ids_.resize};
    return ids[static_cast<int>(channel)];
  }

 private:
  bool toldOfTheEnd(const Inventory& now) const override {
    auto ids = {ids_.out, ids_.err, ids_.error};
    return std::all_of(ids.begin(), ids.end(), [&](auto id) {
      return id == 0 || now.stream(id).finished || now.stream(id).reset;  // clients take both
    });
  }
  void goodbye() override {
    for (auto id : {ids_.error, ids_.in, ids_.out, ids_.err, ids_.resize})
      if (id != 0) connection_->reset(id);
    connection_->goAway(0);
  }

  std::unique_ptr<SpdyConnection> connection_;
  SpdyStreams ids_;
  std::uint32_t ping_ = 0xffffffff;  // the first is 1
};

class WebSocketSession final : public Session {
 public:
  WebSocketSession(const Protocol& protocol, const Streams& streams, std::unique_ptr<WebSocketConnection> connection)
      : Session(protocol, streams), connection_(std::move(connection)) {}

  void send(Channel channel, std::string_view bytes) override {
    connection_->sendChannel(static_cast<std::uint8_t>(channel), bytes);
  }
  void endInput() override {
    if (!protocol_.endsInput) throw std::logic_error(protocol_.name + " cannot end stdin");
    connection_->closeChannel(0);
  }
  void ping() override { connection_->ping("ping " + std::to_string(++pings_)); }
  bool pingAnswered(milliseconds time) override {
    auto wanted = "ping " + std::to_string(pings_);
    return inbox().wait(
        time, [&](const auto& now) { return now.stream(1U << 16 | ws::Pong).data.find(wanted) != std::string::npos; });
  }

  Inbox& inbox() const override { return connection_->inbox(); }
  Link& link() override { return *connection_; }
  std::uint32_t key(Channel channel) const override { return static_cast<std::uint32_t>(channel); }

 private:
  bool toldOfTheEnd(const Inventory& now) const override { return now.closeCode && now.ended; }
  void goodbye() override {}  // the close frame is answered

  std::unique_ptr<WebSocketConnection> connection_;
  int pings_ = 0;
};

// What the error stream says, by the protocol.
void readStatus(const Protocol& protocol, Outcome& outcome) {
  if (!protocol.json) {
    outcome.success = outcome.error.empty();
    outcome.message = outcome.error;
  } else {
    auto status = nlohmann::json::parse(outcome.error, nullptr, false);
    if (!status.is_object()) return;
    outcome.success = status.value("status", "") == "Success";
    outcome.reason = status.value("reason", "");
    outcome.message = status.value("message", "");
    auto causes = status.value("/details/causes"_json_pointer, nlohmann::json::array());
    for (const auto& cause : causes)
      if (cause.value("reason", "") == "ExitCode") outcome.code = std::atoi(cause.value("message", "").c_str());
  }
  if (outcome.success) outcome.code = 0;
}

}  // namespace

const std::vector<Protocol>& protocols() {
  static const std::vector<Protocol> all = {
      // kubectl asks for v5 over SPDY too, though it is none of SPDY.
      {.name = "SpdyV4",
       .asked = {kV5, kV4, kV3, kV2, kV1},
       .chosen = kV4,
       .json = true,
       .resizes = true,
       .endsInput = true},
      {.name = "SpdyV3", .asked = {kV3, kV2, kV1}, .chosen = kV3, .resizes = true, .endsInput = true},
      {.name = "SpdyV2", .asked = {kV2, kV1}, .chosen = kV2, .endsInput = true},
      {.name = "SpdyV1", .asked = {kV1}, .chosen = kV1, .endsInput = true},
      {.name = "WsV5",
       .asked = {kV5},
       .chosen = kV5,
       .spdy = false,
       .carries = Carries::Channels,
       .json = true,
       .resizes = true,
       .endsInput = true},
      {.name = "WsV4",
       .asked = {kV4},
       .chosen = kV4,
       .spdy = false,
       .carries = Carries::Channels,
       .json = true,
       .resizes = true},
      {.name = "WsV4Base64",
       .asked = {"v4.base64.channel.k8s.io"},
       .chosen = "v4.base64.channel.k8s.io",
       .spdy = false,
       .carries = Carries::Base64Channels,
       .json = true,
       .resizes = true},
      {.name = "WsV1", .asked = {kV1}, .chosen = kV1, .spdy = false, .carries = Carries::Channels, .resizes = true},
      {.name = "WsBase64",
       .asked = {"base64.channel.k8s.io"},
       .chosen = "base64.channel.k8s.io",
       .spdy = false,
       .carries = Carries::Base64Channels,
       .resizes = true},
      {.name = "WsNone", .asked = {}, .chosen = "", .spdy = false, .carries = Carries::Channels, .resizes = true},
  };
  return all;
}

const Protocol& protocol(const std::string& name) {
  for (const auto& one : protocols())
    if (one.name == name) return one;
  throw std::invalid_argument("no protocol " + name);
}

std::unique_ptr<Session> Session::open(const Protocol& protocol, const std::string& url, const Streams& streams) {
  auto check = [&](const Answer& answer, const char* header) {
    if (answer.status != 101)
      throw Lost(protocol.name + ": status " + std::to_string(answer.status) + ": " + answer.body);
    if (answer.one(header) != protocol.chosen)
      throw Lost(protocol.name + ": the server chose '" + answer.one(header) + "'");
  };
  if (protocol.spdy) {
    auto opened = openSpdy(url, spdyRequest(protocol.asked));
    check(opened.answer, "X-Stream-Protocol-Version");
    return std::make_unique<SpdySession>(protocol, streams, std::move(opened.connection));
  }
  auto opened = openWebSocket(url, webSocketRequest(protocol.asked), protocol.carries);
  check(opened.answer, "Sec-WebSocket-Protocol");
  return std::make_unique<WebSocketSession>(protocol, streams, std::move(opened.connection));
}

SpdyStreams openStreams(SpdyConnection& connection, const Protocol& protocol, const Streams& streams,
                        const std::string& resize) {
  SpdyStreams ids;
  auto open = [&](bool wanted, const char* type) { return wanted ? connection.open({{"streamtype", type}}) : 0; };
  ids.error = open(true, "error");
  ids.in = open(streams.in, "stdin");
  ids.out = open(streams.out, "stdout");
  ids.err = open(streams.err && !streams.tty, "stderr");
  ids.resize = open(streams.tty && protocol.resizes, "resize");
  if (!resize.empty()) connection.send(ids.resize, resize);
  return ids;
}

void Session::resize(int columns, int rows) {
  send(Channel::Resize, "{\"Width\":" + std::to_string(columns) + ",\"Height\":" + std::to_string(rows) + "}\n");
}

std::string Session::data(Channel channel) const {
  auto id = key(channel);
  return inbox().look([&](const auto& now) { return now.stream(id).data; });
}

std::uint64_t Session::bytes(Channel channel) const {
  auto id = key(channel);
  return inbox().look([&](const auto& now) { return now.stream(id).bytes; });
}

void Session::waitFor(const std::string& text, Channel channel, milliseconds time) const {
  auto id = key(channel);
  if (!inbox().wait(time, [&](const auto& now) { return now.stream(id).data.find(text) != std::string::npos; }))
    throw Lost(protocol_.name + ": '" + text + "' does not come; so far: " + data(channel).substr(0, 1000) +
               "; error stream: " + data(Channel::Error).substr(0, 1000));
}

bool Session::over(milliseconds time) const {
  return inbox().wait(time, [&](const auto& now) { return toldOfTheEnd(now); });
}

bool Session::lost(milliseconds time) const {
  return inbox().wait(time, [&](const auto& now) { return now.ended.has_value(); });
}

Outcome Session::finish(milliseconds time) {
  Outcome outcome;
  inbox().wait(time, [&](const auto& now) { return toldOfTheEnd(now) || now.ended; });
  outcome.inventory = inbox().now();
  auto& now = outcome.inventory;
  outcome.ended = toldOfTheEnd(now);
  if (key(Channel::Out) != 0) outcome.out = now.streams[key(Channel::Out)].data;
  if (key(Channel::Err) != 0) outcome.err = now.streams[key(Channel::Err)].data;
  outcome.error = now.streams[key(Channel::Error)].data;
  for (auto& stream : now.streams) stream.second.data.clear();
  readStatus(protocol_, outcome);
  if (!now.ended) {
    try {
      goodbye();
    } catch (const Lost&) {  // the server was quicker
    }
    drop();
  }
  return outcome;
}

// ---- Port-forward

namespace {

const std::string kPortForward = "portforward.k8s.io";

class SpdyForward final : public Forward {
 public:
  SpdyForward(const ForwardProtocol& protocol, std::unique_ptr<SpdyConnection> connection)
      : Forward(protocol), connection_(std::move(connection)) {}

  std::size_t connect(std::uint16_t port) override {
    auto number = connections_.size();
    auto request = std::to_string(number);
    Keys keys;
    keys.error = connection_->open({{"streamtype", "error"}, {"port", std::to_string(port)}, {"requestid", request}});
    connection_->finish(keys.error);
    keys.data = connection_->open({{"streamtype", "data"}, {"port", std::to_string(port)}, {"requestid", request}});
    connections_.push_back(keys);
    return number;
  }
  void write(std::size_t connection, std::string_view bytes) override {
    connection_->send(keys(connection).data, bytes);
  }
  void finish(std::size_t connection) override { connection_->finish(keys(connection).data); }
  Inbox& inbox() const override { return connection_->inbox(); }
  Link& link() override { return connection_->link(); }

 private:
  std::size_t prefix() const override { return 0; }
  std::unique_ptr<SpdyConnection> connection_;
};

class WebSocketForward final : public Forward {
 public:
  WebSocketForward(const ForwardProtocol& protocol, const std::vector<std::uint16_t>& ports,
                   std::unique_ptr<WebSocketConnection> connection)
      : Forward(protocol), ports_(ports), connection_(std::move(connection)) {
    for (std::uint32_t i = 0; i < ports.size(); ++i) connections_.push_back({2 * i, 2 * i + 1});
  }

  std::size_t connect(std::uint16_t port) override {
    auto found = std::find(ports_.begin(), ports_.end(), port);
    if (found == ports_.end()) throw std::logic_error("no channels for port " + std::to_string(port));
    *found = 0;
    return static_cast<std::size_t>(found - ports_.begin());
  }
  void write(std::size_t connection, std::string_view bytes) override {
    connection_->sendChannel(static_cast<std::uint8_t>(keys(connection).data), bytes);
  }
  void finish(std::size_t) override { throw std::logic_error("no half a close over WebSocket"); }
  Inbox& inbox() const override { return connection_->inbox(); }
  Link& link() override { return *connection_; }

 private:
  std::size_t prefix() const override { return 2; }
  std::vector<std::uint16_t> ports_;
  std::unique_ptr<WebSocketConnection> connection_;
};

}  // namespace

const std::vector<ForwardProtocol>& forwardProtocols() {
  static const std::vector<ForwardProtocol> all = {
      {.name = "Spdy", .asked = {kPortForward}, .chosen = kPortForward},
      {.name = "Tunnel", .asked = {"SPDY/3.1+" + kPortForward}, .chosen = "SPDY/3.1+" + kPortForward, .tunnel = true},
      {.name = "WsV4", .asked = {kV4}, .chosen = kV4, .spdy = false, .carries = Carries::Channels},
      {.name = "WsV4Base64",
       .asked = {"v4.base64.channel.k8s.io"},
       .chosen = "v4.base64.channel.k8s.io",
       .spdy = false,
       .carries = Carries::Base64Channels},
      {.name = "WsNone", .asked = {}, .chosen = "", .spdy = false, .carries = Carries::Channels},
  };
  return all;
}

const ForwardProtocol& forwardProtocol(const std::string& name) {
  for (const auto& one : forwardProtocols())
    if (one.name == name) return one;
  throw std::invalid_argument("no protocol " + name);
}

std::unique_ptr<Forward> Forward::open(const ForwardProtocol& protocol, const std::string& url,
                                       const std::vector<std::uint16_t>& ports) {
  if (protocol.spdy) {
    auto opened = protocol.tunnel ? openTunnel(url) : openSpdy(url, spdyRequest(protocol.asked));
    auto chosen = opened.answer.one(protocol.tunnel ? "Sec-WebSocket-Protocol" : "X-Stream-Protocol-Version");
    if (!opened.connection || chosen != protocol.chosen)
      throw Lost(protocol.name + ": status " + std::to_string(opened.answer.status) + " '" + chosen + "' " +
                 opened.answer.body);
    return std::make_unique<SpdyForward>(protocol, std::move(opened.connection));
  }
  auto opened = openWebSocket(url, webSocketRequest(protocol.asked), protocol.carries);
  if (!opened.connection || opened.protocol != protocol.chosen)
    throw Lost(protocol.name + ": status " + std::to_string(opened.answer.status) + " '" + opened.protocol + "' " +
               opened.answer.body);
  return std::make_unique<WebSocketForward>(protocol, ports, std::move(opened.connection));
}

std::string Forward::data(std::size_t connection) const {
  auto text = inbox().look([&](const auto& now) { return now.stream(keys(connection).data).data; });
  return text.substr(std::min(prefix(), text.size()));
}

std::string Forward::error(std::size_t connection) const {
  auto text = inbox().look([&](const auto& now) { return now.stream(keys(connection).error).data; });
  return text.substr(std::min(prefix(), text.size()));
}

void Forward::waitFor(std::size_t connection, const std::string& text) const {
  auto id = keys(connection).data;
  if (!inbox().wait(milliseconds(20'000),
                    [&](const auto& now) { return now.stream(id).data.find(text) != std::string::npos; }))
    throw Lost(protocol_.name + ": '" + text + "' does not come; so far: " + data(connection).substr(0, 1000) +
               "; error stream: " + error(connection).substr(0, 1000));
}

bool Forward::waitForBytes(std::size_t connection, std::uint64_t bytes, milliseconds time) const {
  auto id = keys(connection).data;
  return inbox().wait(time, [&](const auto& now) { return now.stream(id).bytes >= bytes + prefix(); });
}

bool Forward::waitForError(std::size_t connection, milliseconds time) const {
  auto id = keys(connection).error;
  return inbox().wait(time, [&](const auto& now) { return now.stream(id).bytes > prefix(); });
}

bool Forward::waitForEnd(std::size_t connection, milliseconds time) const {
  auto id = keys(connection).data;
  return inbox().wait(time, [&](const auto& now) {
    const auto& stream = now.stream(id);
    return stream.finished || stream.reset || now.ended;
  });
}

std::vector<std::string> Forward::faults() const {
  return inbox().look([](const auto& now) { return now.faults; });
}

}  // namespace userpod::streamtest

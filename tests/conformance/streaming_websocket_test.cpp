// RFC 6455 and the channels of Kubernetes, and what becomes of clients that speak neither.
#include "tests/conformance/streaming_world.hpp"

namespace userpod::conformance {
namespace {

using streamtest::Carries;
using streamtest::WebSocketConnection;
namespace ws = streamtest::ws;

class StreamingWebSocket : public testing::Test {
 protected:
  static void SetUpTestSuite() { shared = std::make_unique<Shared>(); }
  static void TearDownTestSuite() { shared.reset(); }
  static const Container& container() { return shared->container; }

  static std::unique_ptr<WebSocketConnection> connect(const std::string& script, const Streams& streams = kAll,
                                                      const std::string& name = "v4.channel.k8s.io",
                                                      Carries carries = Carries::Channels) {
    auto opened = streamtest::openWebSocket(execUrl(container().id(), script, streams),
                                            streamtest::webSocketRequest({name}), carries);
    if (!opened.connection) throw streamtest::Lost("status " + std::to_string(opened.answer.status));
    return std::move(opened.connection);
  }
  static bool ends(WebSocketConnection& connection) {
    return connection.inbox().wait(patience(seconds(10)), [](const auto& now) { return now.ended.has_value(); });
  }
  static bool outIs(WebSocketConnection& connection, const std::string& text) {
    return connection.inbox().wait(patience(seconds(20)), [&](const auto& now) { return now.stream(1).data == text; });
  }
  static void goesOn(const std::source_location& where = std::source_location::current()) {
    EXPECT_EQ(ran(streamtest::protocol("WsV4"), container(), "echo goes on", kOut, where).out, "goes on\n");
  }

 private:
  struct Shared {
    Pod pod;
    Container container{pod};
  };
  static inline std::unique_ptr<Shared> shared;
};

}  // namespace

// ---- What the server sends

TEST_F(StreamingWebSocket, FirstMessageIsEmptyOnTheLowestChannelThatIsWritten) {
  PROMISE("1.4 first message");
  const std::pair<Streams, std::uint32_t> cases[] = {{{.out = true, .err = true}, 1},
                                                     {{.in = true, .out = true, .err = false}, 1},
                                                     {{.out = false, .err = true}, 2},
                                                     {{.in = true, .out = false, .err = false}, 3}};
  for (const auto& [streams, channel] : cases) {
    auto connection = connect("sleep 0.3; echo out; echo err >&2; exit 1", streams);
    ASSERT_TRUE(connection->inbox().wait(patience(seconds(5)), [](const auto& now) { return !now.events.empty(); }));
    auto first = connection->inbox().now().events.front();
    EXPECT_EQ(first, (Event{What::Empty, channel}));
  }
}

TEST_F(StreamingWebSocket, FramesOfTheServerAreAsTheRfcSays) {
  PROMISE("1.4 websocket frames");
  auto connection = connect("seq 1 50000; seq 1 100 >&2", kOut);
  ASSERT_TRUE(ends(*connection));
  EXPECT_THAT(connection->inbox().now().faults, testing::IsEmpty());
}

TEST_F(StreamingWebSocket, ServerClosesWithNormalAfterTheStatus) {
  PROMISE("1.4 close");
  for (const auto& name : {"v5.channel.k8s.io", "v4.channel.k8s.io", "channel.k8s.io"}) {
    auto connection = connect("exit 3", kOut, name);
    ASSERT_TRUE(ends(*connection));
    auto now = connection->inbox().now();
    EXPECT_EQ(now.closeCode, ws::kNormal) << name;
    EXPECT_NE(now.stream(3).data, "");
    EXPECT_EQ(now.events.back().what, What::Close);
    EXPECT_EQ(*now.ended, "");
  }
}

TEST_F(StreamingWebSocket, PingsAreAnsweredWithTheirText) {
  PROMISE("1.4 ping");
  auto connection = connect("sleep 3600");
  for (const auto& text : {std::string("hello"), std::string(), std::string(125, 'x')}) {
    auto pongs = connection->inbox().now().stream(1U << 16 | ws::Pong).bytes;
    connection->ping(text);
    EXPECT_TRUE(connection->inbox().wait(patience(seconds(5)), [&](const auto& now) {
      return now.has({What::Other, ws::Pong, text.size()}) &&
             now.stream(1U << 16 | ws::Pong).bytes == pongs + text.size();
    }));
  }
  connection->frame(ws::Pong, "nobody asked");
  connection->ping("goes on");
  EXPECT_TRUE(connection->inbox().wait(
      patience(seconds(5)), [](const auto& now) { return now.stream(1U << 16 | ws::Pong).data.ends_with("goes on"); }));
}

// ---- What the client sends

TEST_F(StreamingWebSocket, FragmentsAreOneMessage) {
  PROMISE("1.4 websocket frames");
  auto bytes = bytesOfAllKinds(300'000);
  auto connection = connect("head -c 300000");
  connection->fragmented(ws::Binary, std::string(1, '\0') + bytes.substr(0, 100'000), 9);
  connection->frame(ws::Binary, std::string(1, '\0'), false);
  connection->ping("between");
  connection->frame(ws::Continuation, "", false);
  connection->frame(ws::Continuation, bytes.substr(100'000), true);
  EXPECT_TRUE(outIs(*connection, bytes));
  EXPECT_TRUE(connection->inbox().now().has({What::Other, ws::Pong, 7}));
}

TEST_F(StreamingWebSocket, MessagesMayHaveAnySize) {
  PROMISE("1.4 websocket frames");
  auto bytes = bytesOfAllKinds(1 << 20);
  auto connection = connect("head -c 1048576");
  std::size_t at = 0;
  for (std::size_t size : {0, 1, 124, 125, 126, 65534, 65535, 65536, 200'000}) {
    connection->message(ws::Binary, std::string(1, '\0') + bytes.substr(at, size));
    at += size;
  }
  connection->sendChannel(0, std::string_view(bytes).substr(at));
  EXPECT_TRUE(outIs(*connection, bytes));
}

TEST_F(StreamingWebSocket, CloseOfTheClientIsAnswered) {
  PROMISE("1.4 close");
  for (int code : {ws::kNormal, 1001, ws::kNoCode}) {
    auto marker = uniqueName("marker");
    auto connection = connect("echo ready; while :; do sleep 0.1; done; : " + marker);
    ASSERT_TRUE(outIs(*connection, "ready\n"));
    connection->close(code);
    EXPECT_TRUE(ends(*connection));
    EXPECT_TRUE(connection->inbox().now().closeCode.has_value());
    waitUntil([&] { return processesWith(marker).empty(); }, "the end of what the client left");
  }
}

TEST_F(StreamingWebSocket, CloseHangsUpThoughTheClientStays) {
  PROMISE("1.4 close");
  auto marker = uniqueName("marker");
  auto connection = connect("echo ready; while :; do sleep 0.1; done; : " + marker);
  ASSERT_TRUE(outIs(*connection, "ready\n"));
  connection->stay();
  connection->close();
  EXPECT_TRUE(ends(*connection));
  waitUntil([&] { return processesWith(marker).empty(); }, "the end of what the client left");
}

TEST_F(StreamingWebSocket, CloseSignalIsOfV5Alone) {
  PROMISE("1.4 half-close");
  auto five = connect("cat; echo over", kAll, "v5.channel.k8s.io");
  five->closeChannel(0);
  EXPECT_TRUE(outIs(*five, "over\n"));
  auto four = connect("read -r line; echo \"<$line>\"");
  four->closeChannel(0);
  std::this_thread::sleep_for(milliseconds(300));
  four->sendChannel(0, "still open\n");
  EXPECT_TRUE(outIs(*four, "<still open>\n"));
}

TEST_F(StreamingWebSocket, ChannelsThatAreNotForTheClientArePassedOver) {
  PROMISE("1.4 channels");
  auto connection = connect("read -r line; echo \"<$line>\"", kAll, "v5.channel.k8s.io");
  for (std::uint8_t channel : {1, 2, 3, 5, 9, 200}) connection->sendChannel(channel, "nonsense");
  for (std::uint8_t channel : {1, 2, 3, 7, 255}) connection->closeChannel(channel);
  connection->sendChannel(4, "{\"Width\":10,\"Height\":10}");
  try {
    connection->sendChannel(0, "goes on\n");
  } catch (const streamtest::Lost&) {
  }
  // It is passed over, or the session is refused; it does not count as input.
  connection->inbox().wait(patience(seconds(10)), [](const auto& now) { return now.closeCode || now.ended; });
  auto out = connection->inbox().now().stream(1).data;
  EXPECT_TRUE(out == "<goes on>\n" || out.empty()) << out;
  goesOn();
}

// ---- Faults of clients

TEST_F(StreamingWebSocket, FaultsOfFramingEndTheConnection) {
  PROMISE("1.4 websocket faults");
  const std::string in(1, '\0');
  const std::pair<const char*, std::function<void(WebSocketConnection&)>> faults[] = {
      {"no mask", [&](auto& c) { c.unmasked(), c.message(ws::Binary, in + "x"); }},
      {"reserved bits", [&](auto& c) { c.frame(ws::Binary, in + "x", true, 4); }},
      {"an unknown opcode", [&](auto& c) { c.frame(3, in + "x"); }},
      {"an unknown control frame", [](auto& c) { c.frame(11, "x"); }},
      {"a control frame in parts", [](auto& c) { c.frame(ws::Ping, "x", false); }},
      {"a control frame that is too long", [](auto& c) { c.frame(ws::Ping, std::string(126, 'x')); }},
      {"a continuation of nothing", [](auto& c) { c.frame(ws::Continuation, "x"); }},
      {"a message within another",
       [&](auto& c) { c.frame(ws::Binary, in, false), c.frame(ws::Binary, in + "x", true); }},
      {"half a code of a close", [](auto& c) { c.frame(ws::Close, "x"); }},
      {"a length of 2^63 and more",
       [](auto& c) { c.raw(ws::frameHead(ws::Binary, 0xffffffffffffffff, "mask") + "xxxx"); }},
  };
  for (const auto& [what, commit] : faults) {
    auto marker = uniqueName("marker");
    auto connection = connect("echo ready; while :; do sleep 0.1; done; : " + marker);
    ASSERT_TRUE(outIs(*connection, "ready\n")) << what;
    try {
      commit(*connection);
    } catch (const streamtest::Lost&) {
    }
    EXPECT_TRUE(ends(*connection)) << what;
    auto code = connection->inbox().now().closeCode;
    EXPECT_NE(code, ws::kNormal) << what;
    waitUntil([&] { return processesWith(marker).empty(); }, std::string("the end of the command after ") + what);
  }
  goesOn();
}

TEST_F(StreamingWebSocket, MessageThatIsTooLargeIsNoHarm) {
  PROMISE("1.4 websocket faults");
  // Announced, and sent as far as the server takes it; in one frame, and in fragments without end.
  auto piece = std::string(1 << 20, 'x');
  for (bool fragments : {false, true}) {
    auto connection = connect("cat > /dev/null");
    try {
      if (!fragments) connection->raw(ws::frameHead(ws::Binary, 1ULL << 40, "mask"));
      if (fragments) connection->frame(ws::Binary, std::string(1, '\0'), false);
      for (int i = 0; i < 64; ++i) {
        if (fragments) {
          connection->frame(ws::Continuation, piece, false);
        } else {
          connection->raw(piece);
        }
      }
    } catch (const streamtest::Lost&) {
    }
    goesOn();
  }
}

TEST_F(StreamingWebSocket, MessagesWithoutAChannelAreNoHarm) {
  PROMISE("1.4 channels");
  for (int i = 0; i < 2; ++i) {
    auto connection = connect("sleep 1; echo runs", kAll, "v4.channel.k8s.io");
    connection->message(i == 0 ? ws::Binary : ws::Text, "");
    connection->inbox().wait(patience(seconds(5)),
                             [](const auto& now) { return now.ended || now.stream(1).bytes > 0; });
    goesOn();
  }
}

TEST_F(StreamingWebSocket, Base64ThatIsNoneIsNoHarm) {
  PROMISE("1.4 channels");
  for (const auto* text : {"0***", "0Zg", "x", "0", "", "9Zm9v", "0Z\xff=="}) {
    auto connection = connect("sleep 1; echo runs", kAll, "v4.base64.channel.k8s.io", Carries::Base64Channels);
    connection->message(ws::Text, text);
    goesOn();
  }
}

TEST_F(StreamingWebSocket, FloodOfPingsWithoutAReaderIsNoHarm) {
  PROMISE("1.4 floods");
  auto connection = connect("sleep 3600");
  connection->pause(true);
  auto ping = ws::frame(ws::Ping, std::string(100, 'x'), "mask");
  std::string pings;
  for (int i = 0; i < 10'000; ++i) pings += ping;
  auto flooding = std::async(std::launch::async, [&] {
    try {
      for (int i = 0; i < 20; ++i) connection->raw(pings);
    } catch (const streamtest::Lost&) {
    }
  });
  std::this_thread::sleep_for(seconds(1));
  goesOn();
  connection->pause(false);
  EXPECT_EQ(flooding.wait_for(seconds(60)), std::future_status::ready);
}

TEST_F(StreamingWebSocket, BytesOfChanceAreNoHarm) {
  PROMISE("1.4 websocket faults");
  for (std::uint32_t seed = 1; seed <= 30; ++seed) {
    auto connection = connect("sleep 3600");
    try {
      connection->raw(bytesOfAllKinds(5000, seed));
      connection->endOutput();
    } catch (const streamtest::Lost&) {
    }
    EXPECT_TRUE(ends(*connection)) << seed;
  }
  goesOn();
}

}  // namespace userpod::conformance

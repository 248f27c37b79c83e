// SPDY/3.1 as a server of CRI streaming must speak it, and what it does with clients that do not.
#include <sys/socket.h>

#include "tests/conformance/streaming_world.hpp"

namespace userpod::conformance {
namespace {

using streamtest::Headers;
using streamtest::SpdyConnection;
namespace spdy = streamtest::spdy;

const Protocol& v4() {
  return streamtest::protocol("SpdyV4");
}

class StreamingSpdy : public testing::Test {
 protected:
  static void SetUpTestSuite() { shared = std::make_unique<Shared>(); }
  static void TearDownTestSuite() { shared.reset(); }
  static const Container& container() { return shared->container; }

  static std::unique_ptr<SpdyConnection> connect(const std::string& script, const Streams& streams = kOut) {
    auto opened = streamtest::openSpdy(execUrl(container().id(), script, streams), streamtest::spdyRequest(v4().asked));
    if (!opened.connection) throw streamtest::Lost("status " + std::to_string(opened.answer.status));
    return std::move(opened.connection);
  }
  static Headers ofType(const std::string& type) { return {{"streamtype", type}}; }
  // Until the server has ended the connection.
  static bool ends(SpdyConnection& connection, milliseconds time = seconds(10)) {
    return connection.inbox().wait(patience(time), [](const auto& now) { return now.ended.has_value(); });
  }
  static testing::AssertionResult outIs(SpdyConnection& connection, std::uint32_t out, const std::string& text) {
    auto isThere = [&](const auto& now) { return now.stream(out).finished && now.stream(out).data == text; };
    if (connection.inbox().wait(patience(seconds(20)), isThere)) return testing::AssertionSuccess();
    auto now = connection.inbox().now();
    return testing::AssertionFailure() << "stdout " << (now.stream(out).finished ? "ended with " : "so far: ")
                                       << now.stream(out).bytes << " bytes: " << now.stream(out).data.substr(0, 200)
                                       << "; " << told(now);
  }

 private:
  struct Shared {
    Pod pod;
    Container container{pod};
  };
  static inline std::unique_ptr<Shared> shared;
};

// A session that is there while something else goes wrong, and another afterwards.
class Bystander {
 public:
  explicit Bystander(const Container& container)
      : container_(container), session_(execute(v4(), container, "read -r line; echo \"<$line>\"", kAll)) {}
  void check(const std::source_location& where = std::source_location::current()) {
    session_->write("untouched\n");
    EXPECT_EQ(ended(*session_, seconds(20), where).out, "<untouched>\n");
    EXPECT_EQ(ran(v4(), container_, "echo goes on", kOut, where).out, "goes on\n");
  }

 private:
  const Container& container_;
  std::unique_ptr<Session> session_;
};

}  // namespace

// ---- Streams

TEST_F(StreamingSpdy, EachStreamIsAnsweredAtOnce) {
  PROMISE("1.4 syn_reply");
  auto connection = connect("echo runs");
  for (const auto* type : {"error", "stdout", "stderr"}) {
    auto id = connection->open(ofType(type));
    EXPECT_TRUE(connection->inbox().wait(patience(seconds(5)), [&](const auto& now) { return now.stream(id).replied; }))
        << type;
    EXPECT_THAT(connection->inbox().now().stream(id).headers, testing::IsEmpty());
  }
  EXPECT_TRUE(outIs(*connection, 3, "runs\n"));
  EXPECT_THAT(connection->inbox().now().faults, testing::IsEmpty());
}

TEST_F(StreamingSpdy, CommandStartsWhenAllItsStreamsAreThere) {
  PROMISE("1.4 streams");
  auto name = uniqueName("started");
  auto connection = connect("echo now > /tmp/" + name + "; echo runs", kAll);
  for (const auto* type : {"error", "stdin", "stdout"}) connection->open(ofType(type));
  std::this_thread::sleep_for(milliseconds(700));
  EXPECT_NE(container().exec("cat /tmp/" + name).code, 0);
  connection->open(ofType("stderr"));
  EXPECT_TRUE(outIs(*connection, 5, "runs\n"));
}

TEST_F(StreamingSpdy, StreamsMayComeInAnyOrder) {
  PROMISE("1.4 streams");
  auto connection = connect("cat; echo runs", kAll);
  std::map<std::string, std::uint32_t> ids;
  for (const auto* type : {"stdout", "stdin", "stderr", "error"}) ids[type] = connection->open(ofType(type));
  connection->finish(ids["stdin"], "in ");
  EXPECT_TRUE(outIs(*connection, ids["stdout"], "in runs\n"));
}

TEST_F(StreamingSpdy, InputMayComeBeforeTheLastStream) {
  PROMISE("1.4 streams");
  auto connection = connect("cat", kAll);
  connection->open(ofType("error"));
  auto in = connection->open(ofType("stdin"));
  connection->send(in, "early ");
  connection->finish(in, "and late\n");
  auto out = connection->open(ofType("stdout"));
  connection->open(ofType("stderr"));
  EXPECT_TRUE(outIs(*connection, out, "early and late\n"));
}

TEST_F(StreamingSpdy, StreamThatIsOpenedWithItsEndHasNoInput) {
  PROMISE("1.4 half-close");
  auto connection = connect("cat; echo over", kAll);
  connection->open(ofType("error"));
  connection->open(ofType("stdin"), spdy::kFin);
  auto out = connection->open(ofType("stdout"));
  connection->open(ofType("stderr"));
  EXPECT_TRUE(outIs(*connection, out, "over\n"));
}

TEST_F(StreamingSpdy, FramesOfInputMayHaveAnySize) {
  PROMISE("1.4 frames");
  auto bytes = bytesOfAllKinds(3 << 20);
  auto connection = connect("cat", kAll);
  auto ids = streamtest::openStreams(*connection, v4(), kAll);
  connection->send(ids.in, std::string_view(bytes).substr(0, 1000), 1);
  connection->send(ids.in, "", 1);
  connection->raw(spdy::dataHead(ids.in, 0, 0));
  connection->send(ids.in, std::string_view(bytes).substr(1000), 1 << 20);
  connection->finish(ids.in);
  EXPECT_TRUE(outIs(*connection, ids.out, bytes));
}

TEST_F(StreamingSpdy, FramesMayComeInPieces) {
  PROMISE("1.4 frames");
  auto connection = connect("cat", kAll);
  auto bytes = std::string();
  std::uint32_t id = 1;
  for (const auto* type : {"error", "stdin", "stdout", "stderr"}) {
    auto payload = spdy::number32(id) + spdy::number32(0) + spdy::number16(0) + connection->block(ofType(type));
    bytes += spdy::controlFrame(spdy::SynStream, 0, payload);
    id += 2;
  }
  bytes += spdy::dataHead(3, spdy::kFin, 5) + "whole";
  for (char c : bytes) {
    connection->raw(std::string(1, c));
    std::this_thread::sleep_for(std::chrono::microseconds(200));
  }
  EXPECT_TRUE(outIs(*connection, 5, "whole"));
}

TEST_F(StreamingSpdy, StreamsEndByFin) {
  PROMISE("1.4 end");
  auto connection = connect("echo out; echo err >&2; exit 7");
  auto ids = streamtest::openStreams(*connection, v4(), kOut);
  EXPECT_TRUE(connection->inbox().wait(patience(seconds(10)), [&](const auto& now) {
    return now.stream(ids.error).finished && now.stream(ids.out).finished && now.stream(ids.err).finished;
  }));
  auto now = connection->inbox().now();
  auto at = [&](const Event& event) { return std::find(now.events.begin(), now.events.end(), event); };
  for (auto id : {ids.out, ids.err}) {
    EXPECT_LT(at({What::Finish, id}), at({What::Finish, ids.error})) << "the status comes last";
    EXPECT_FALSE(now.stream(id).reset);
  }
}

TEST_F(StreamingSpdy, GoodbyeOfTheClientEndsTheConnection) {
  PROMISE("1.4 goodbye");
  auto connection = connect("echo runs");
  auto ids = streamtest::openStreams(*connection, v4(), kOut);
  ASSERT_TRUE(connection->inbox().wait(patience(seconds(10)), [&](const auto& now) {
    return now.stream(ids.error).finished || now.stream(ids.error).reset;
  }));
  try {
    for (auto id : {ids.error, ids.out, ids.err}) connection->reset(id);
    connection->goAway(0);
  } catch (const streamtest::Lost&) {  // the server was quicker
  }
  EXPECT_TRUE(ends(*connection));
}

TEST_F(StreamingSpdy, ConnectionIsNotInheritedByContainers) {
  PROMISE("1.4 goodbye");
  auto connection = connect("echo runs");
  auto ids = streamtest::openStreams(*connection, v4(), kOut);
  Pod pod;  // whatever is started for it lives longer than the connection
  Container container(pod);
  auto exec = execute(v4(), container, "sleep 3600");
  ASSERT_TRUE(outIs(*connection, ids.out, "runs\n"));
  try {
    for (auto id : {ids.error, ids.out, ids.err}) connection->reset(id);
    connection->goAway(0);
  } catch (const streamtest::Lost&) {  // the server was quicker
  }
  EXPECT_TRUE(ends(*connection));
}

TEST_F(StreamingSpdy, PingsAreAnsweredOnceEach) {
  PROMISE("1.4 ping");
  auto connection = connect("sleep 3600");
  for (std::uint32_t id = 1; id < 200; id += 2) connection->ping(id);
  EXPECT_TRUE(connection->inbox().wait(patience(seconds(5)), [](const auto& now) { return now.events.size() == 100; }));
  auto now = connection->inbox().now();
  for (std::uint32_t id = 1; id < 200; id += 2) EXPECT_TRUE(now.has({What::Ping, 0, id})) << id;
}

TEST_F(StreamingSpdy, FramesOfNoUseArePassedOver) {
  PROMISE("1.4 other frames");
  auto connection = connect("cat", kAll);
  connection->settings(4, 100);
  connection->settings(7, 65536);
  connection->windowUpdate(0, 65536);
  auto ids = streamtest::openStreams(*connection, v4(), kAll);
  connection->windowUpdate(ids.out, 1000);
  connection->windowUpdate(ids.out, 0x7fffffff);
  connection->raw(spdy::controlFrame(spdy::Headers_, 0, spdy::number32(ids.in) + connection->block({{"x", "y"}})));
  connection->raw(spdy::controlFrame(99, 0, "unknown"));
  connection->finish(ids.in, "goes on");
  EXPECT_TRUE(outIs(*connection, ids.out, "goes on"));
}

TEST_F(StreamingSpdy, WindowIsNotWaitedFor) {
  PROMISE("1.4 other frames");
  // Ten times the window that SPDY begins with, and no WINDOW_UPDATE: clients of Kubernetes send none.
  auto connection = connect("head -c 655360 /dev/zero");
  auto ids = streamtest::openStreams(*connection, v4(), kOut);
  EXPECT_TRUE(outIs(*connection, ids.out, std::string(655'360, '\0')));
}

// ---- Faults of clients. The connection ends, or the stream alone is refused; nobody else notices.

TEST_F(StreamingSpdy, UnknownTypeOfStreamRunsNothing) {
  PROMISE("1.4 stream faults");
  Bystander bystander(container());
  for (const auto& headers : std::vector<Headers>{ofType("banana"), ofType(""), {}, {{"port", "80"}}}) {
    auto connection = connect("echo runs");
    connection->open(ofType("error"));
    auto out = connection->open(ofType("stdout"));
    auto wrong = connection->open(headers);
    EXPECT_TRUE(connection->inbox().wait(patience(seconds(10)),
                                         [&](const auto& now) { return now.stream(wrong).reset || now.ended; }));
    EXPECT_EQ(connection->inbox().now().stream(out).data, "");
  }
  bystander.check();
}

struct Fault {
  const char* what;
  std::function<void(SpdyConnection&)> commit;
};

void sendSyn(SpdyConnection& connection, std::uint32_t id, const std::string& block) {
  connection.openWithBlock(id, block);
}

// Deflated by its own stream: all of it, from the beginning.
std::string freshBlock(const std::string& text) {
  return spdy::Deflater().compress(text);
}

std::vector<Fault> faults() {
  auto syn = [](std::uint32_t id) { return [id](SpdyConnection& c) { c.openAs(id, {{"streamtype", "stdout"}}); }; };
  auto block = [](const std::string& text) { return [text](SpdyConnection& c) { sendSyn(c, 1, freshBlock(text)); }; };
  auto raw = [](const std::string& bytes) { return [bytes](SpdyConnection& c) { c.raw(bytes); }; };
  using spdy::number32;
  return {
      {"a header block that is no zlib", [](auto& c) { sendSyn(c, 1, "this is no zlib at all"); }},
      {"a header block without the dictionary",
       [](auto& c) { sendSyn(c, 1, std::string("\x78\x9c\x63\x60\x60\x60\x60\x00\x00\x00\x04\x00\x01", 13)); }},
      {"a header block that is cut", block(number32(3) + number32(10) + "strea")},
      {"more headers than the block has", block(number32(0x7fffffff))},
      {"a name longer than the block", block(number32(1) + number32(0xffffffff) + "x")},
      {"more than the headers in a block", block(number32(0) + "rest")},
      {"no header block", [](auto& c) { sendSyn(c, 1, ""); }},
      {"an even id", syn(2)},
      {"the id 0", syn(0)},
      {"an id that is used again", [=](auto& c) { syn(5)(c), syn(5)(c); }},
      {"an id below the last", [=](auto& c) { syn(7)(c), syn(5)(c); }},
      {"another version", raw(spdy::controlFrame(spdy::Ping, 0, number32(1), 2))},
      {"a SYN_STREAM that is too short", raw(spdy::controlFrame(spdy::SynStream, 0, "short"))},
      {"a PING that is too short", raw(spdy::controlFrame(spdy::Ping, 0, "x"))},
      {"a RST_STREAM that is too short", raw(spdy::controlFrame(spdy::RstStream, 0, number32(1)))},
      {"a control frame of 16 MB", raw(spdy::controlFrame(spdy::SynStream, 0, std::string((1 << 24) - 1, 'x')))},
  };
}

TEST_F(StreamingSpdy, FaultsOfFramingEndTheConnection) {
  PROMISE("1.4 framing faults");
  for (const auto& fault : faults()) {
    Bystander bystander(container());
    auto connection = connect("echo runs");
    try {
      fault.commit(*connection);
    } catch (const streamtest::Lost&) {  // the server has heard enough
    }
    auto refused = [](const auto& now) {
      return now.ended || std::any_of(now.streams.begin(), now.streams.end(),
                                      [](const auto& stream) { return stream.second.reset.has_value(); });
    };
    EXPECT_TRUE(connection->inbox().wait(patience(seconds(10)), refused)) << fault.what;
    bystander.check();
  }
}

TEST_F(StreamingSpdy, DataOfNoStreamIsNoHarm) {
  PROMISE("1.4 framing faults");
  Bystander bystander(container());
  auto connection = connect("echo runs");
  try {
    connection->raw(spdy::dataHead(99, 0, 3) + "abc");
    connection->raw(spdy::dataHead(0, spdy::kFin, 0));
    connection->raw(spdy::dataHead(2, 0, 1 << 20) + std::string(1 << 20, 'x'));
    connection->reset(77);
    connection->windowUpdate(77, 1);
    streamtest::openStreams(*connection, v4(), kOut);
  } catch (const streamtest::Lost&) {
  }
  connection->inbox().wait(seconds(1), [](const auto& now) { return now.ended.has_value(); });
  bystander.check();
}

TEST_F(StreamingSpdy, CutFramesAreNoHarm) {
  PROMISE("1.4 framing faults");
  Bystander bystander(container());
  auto frame = spdy::controlFrame(spdy::SynStream, 0, std::string(100, 'x'));
  for (std::size_t size : {std::size_t(1), std::size_t(7), std::size_t(8), std::size_t(50), frame.size() - 1}) {
    auto connection = connect("echo runs");
    connection->raw(frame.substr(0, size));
    connection->link().endOutput();
    EXPECT_TRUE(ends(*connection)) << size;
    auto reset = connect("echo runs");
    reset->raw(frame.substr(0, size));
    reset->link().drop(streamtest::Drop::Reset);
  }
  bystander.check();
}

TEST_F(StreamingSpdy, TooManyStreamsAreRefused) {
  PROMISE("1.4 floods");
  Bystander bystander(container());
  auto connection = connect("echo runs");
  bool lost = false;
  try {
    for (int i = 0; i < 20'000; ++i) connection->open(ofType("stdout"));
  } catch (const streamtest::Lost&) {
    lost = true;
  }
  auto refused = [](const auto& now) {
    return now.ended || std::any_of(now.streams.begin(), now.streams.end(),
                                    [](const auto& stream) { return stream.second.reset.has_value(); });
  };
  EXPECT_TRUE(lost || connection->inbox().wait(patience(seconds(10)), refused));
  bystander.check();
}

TEST_F(StreamingSpdy, FloodOfPingsWithoutAReaderIsNoHarm) {
  PROMISE("1.4 floods");
  Bystander bystander(container());
  auto connection = connect("sleep 3600");
  connection->link().pause(true);
  std::string pings;
  for (std::uint32_t id = 1; id < 200'000; id += 2) pings += spdy::controlFrame(spdy::Ping, 0, spdy::number32(id));
  auto flooding = std::async(std::launch::async, [&] {
    try {
      for (int i = 0; i < 20; ++i) connection->raw(pings);
    } catch (const streamtest::Lost&) {  // it takes no more, or has hung up
    }
  });
  std::this_thread::sleep_for(seconds(1));
  bystander.check();
  connection->link().pause(false);  // so that the flood ends
  EXPECT_EQ(flooding.wait_for(seconds(60)), std::future_status::ready);
}

TEST_F(StreamingSpdy, HeadersThatSwellAreRefused) {
  PROMISE("1.4 floods");
  Bystander bystander(container());
  for (std::uint32_t size : {16U << 20, 64U << 20}) {
    auto connection = connect("echo runs");
    auto text = spdy::number32(1) + spdy::number32(1) + "x" + spdy::number32(size) + std::string(size, '\0');
    try {
      sendSyn(*connection, 1, freshBlock(text));
    } catch (const streamtest::Lost&) {
    }
    EXPECT_TRUE(connection->inbox().wait(patience(seconds(10)),
                                         [](const auto& now) { return now.ended || now.stream(1).reset; }));
  }
  bystander.check();
}

TEST_F(StreamingSpdy, BytesOfChanceAreNoHarm) {
  PROMISE("1.4 framing faults");
  Bystander bystander(container());
  for (std::uint32_t seed = 1; seed <= 50; ++seed) {
    auto connection = connect("echo runs");
    auto bytes = bytesOfAllKinds(5000, seed);
    if (seed % 2 == 0) bytes = spdy::number16(0x8003) + spdy::number16(static_cast<std::uint16_t>(seed % 12)) + bytes;
    try {
      connection->raw(bytes);
      connection->link().endOutput();
    } catch (const streamtest::Lost&) {
    }
    EXPECT_TRUE(ends(*connection)) << seed;
  }
  bystander.check();
}

}  // namespace userpod::conformance

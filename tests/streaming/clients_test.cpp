// The clients against each other, and against bytes that were worked out elsewhere.
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <zlib.h>

#include <future>

#include "tests/streaming/session.hpp"

namespace userpod::streamtest {
namespace {

using std::chrono::seconds;

struct Pair {
  UniqueFd one, other;
};
Pair socketPair() {
  int ends[2];
  if (::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) != 0) throw std::runtime_error("socketpair");
  return {UniqueFd(ends[0]), UniqueFd(ends[1])};
}
std::unique_ptr<Link> linkOf(UniqueFd fd) {
  return std::make_unique<SocketLink>(std::move(fd));
}

struct SpdyPair {
  SpdyPair() : SpdyPair(socketPair()) {}
  explicit SpdyPair(Pair ends) : client(linkOf(std::move(ends.one))), server(linkOf(std::move(ends.other)), "", true) {}
  SpdyConnection client;
  SpdyConnection server;
};

struct WebSocketPair {
  explicit WebSocketPair(Carries carries) : WebSocketPair(socketPair(), carries) {}
  WebSocketPair(Pair ends, Carries carries)
      : client(linkOf(std::move(ends.one)), "", carries), server(linkOf(std::move(ends.other)), "", carries, true) {}
  WebSocketConnection client;
  WebSocketConnection server;
};

std::string bytesOfAllKinds(std::size_t size) {
  std::string bytes(size, '\0');
  std::uint32_t state = 1;
  for (auto& c : bytes) c = static_cast<char>((state = state * 1664525 + 1013904223) >> 24);
  return bytes;
}

bool finished(Inbox& inbox, std::uint32_t stream) {
  return inbox.wait(seconds(10), [&](const auto& now) { return now.stream(stream).finished; });
}

std::vector<std::string> faults(Inbox& inbox) {
  return inbox.now().faults;
}

}  // namespace

TEST(Http, UrlsAreRead) {
  auto url = parseUrl("http://127.0.0.1:4711/exec/token?x=1");
  EXPECT_EQ(url.host, "127.0.0.1");
  EXPECT_EQ(url.port, 4711);
  EXPECT_EQ(url.path, "/exec/token?x=1");
  EXPECT_EQ(parseUrl("http://[::1]:80").host, "::1");
  EXPECT_EQ(parseUrl("http://[::1]:80").path, "/");
  for (const auto* wrong : {"127.0.0.1:80", "http://host/", "http://host:0/", "http://host:99999/", "http://h:1x/"})
    EXPECT_THROW(parseUrl(wrong), std::invalid_argument) << wrong;
}

TEST(Http, RequestIsThatOfClientGo) {
  auto text = requestText(parseUrl("http://127.0.0.1:80/p"), spdyRequest({"v4.channel.k8s.io", "channel.k8s.io"}));
  EXPECT_EQ(text,
            "POST /p HTTP/1.1\r\nHost: 127.0.0.1:80\r\nUser-Agent: Go-http-client/1.1\r\nContent-Length: 0\r\n"
            "Connection: Upgrade\r\nUpgrade: SPDY/3.1\r\nX-Stream-Protocol-Version: v4.channel.k8s.io\r\n"
            "X-Stream-Protocol-Version: channel.k8s.io\r\n\r\n");
}

TEST(Http, Base64AndAcceptAreThoseOfTheirRfcs) {
  const std::pair<const char*, const char*> known[] = {{"", ""},
                                                       {"f", "Zg=="},
                                                       {"fo", "Zm8="},
                                                       {"foo", "Zm9v"},
                                                       {"foob", "Zm9vYg=="},
                                                       {"fooba", "Zm9vYmE="},
                                                       {"foobar", "Zm9vYmFy"}};
  for (auto [plain, coded] : known) {
    EXPECT_EQ(base64(plain), coded);
    EXPECT_EQ(fromBase64(coded), plain);
  }
  auto all = bytesOfAllKinds(1000);
  EXPECT_EQ(fromBase64(base64(all)), all);
  for (const auto* wrong : {"Zg=", "Zg==Zg==", "Z===", "Zm9*"}) EXPECT_THROW(fromBase64(wrong), std::invalid_argument);
  EXPECT_EQ(acceptOf("dGhlIHNhbXBsZSBub25jZQ=="), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
}

TEST(Spdy, DictionaryIsThatOfTheSpecification) {
  const auto& text = spdy::dictionary();
  EXPECT_EQ(text.size(), 1423U);
  EXPECT_EQ(adler32(adler32(0, nullptr, 0), reinterpret_cast<const Bytef*>(text.data()), 1423), 0xe3c6a7c2UL);
}

TEST(Spdy, FramesAreThoseOfTheSpecification) {
  EXPECT_EQ(spdy::controlFrame(spdy::Ping, 0, spdy::number32(1)),
            std::string("\x80\x03\x00\x06\x00\x00\x00\x04\x00\x00\x00\x01", 12));
  EXPECT_EQ(spdy::controlFrame(spdy::RstStream, 0, spdy::number32(5) + spdy::number32(spdy::kCancel)),
            std::string("\x80\x03\x00\x03\x00\x00\x00\x08\x00\x00\x00\x05\x00\x00\x00\x05", 16));
  EXPECT_EQ(spdy::dataHead(3, spdy::kFin, 0x10203), std::string("\x00\x00\x00\x03\x01\x01\x02\x03", 8));
  EXPECT_EQ(spdy::headerText({{"a", "bc"}}), std::string("\0\0\0\1\0\0\0\1a\0\0\0\2bc", 15));
}

TEST(Spdy, HeaderBlocksShareOneStream) {
  spdy::Deflater deflater;
  spdy::Inflater inflater;
  Headers headers = {{"streamtype", "stdout"}, {"port", "80"}, {"requestid", ""}};
  auto first = deflater.compress(spdy::headerText(headers));
  auto second = deflater.compress(spdy::headerText(headers));
  EXPECT_EQ(static_cast<std::uint8_t>(first[0]) & 0x0f, 8) << "begins as zlib does";
  EXPECT_NE(static_cast<std::uint8_t>(first[1]) & 0x20, 0) << "with a dictionary";
  EXPECT_EQ(first.substr(2, 4), "\xe3\xc6\xa7\xc2") << "which one";
  EXPECT_LT(second.size(), first.size());
  EXPECT_EQ(inflater.decompress(first), headers);
  EXPECT_EQ(inflater.decompress(second), headers);
  EXPECT_THROW(spdy::Inflater().decompress(second), std::runtime_error);
  Headers large = {{"x", bytesOfAllKinds(100'000)}};
  EXPECT_EQ(inflater.decompress(deflater.compress(spdy::headerText(large))), large);
}

TEST(Spdy, StreamsCarryBytesBothWaysAndEnd) {
  SpdyPair pair;
  auto id = pair.client.open({{"streamtype", "stdin"}});
  EXPECT_EQ(id, 1U);
  EXPECT_EQ(pair.client.open({{"streamtype", "stdout"}}), 3U);
  ASSERT_TRUE(pair.server.inbox().wait(seconds(5), [](const auto& now) { return now.stream(3).opened; }));
  EXPECT_EQ(pair.server.inbox().now().stream(1).headers, (Headers{{"streamtype", "stdin"}}));
  pair.server.reply(1, {});
  pair.server.reply(3, {});
  auto bytes = bytesOfAllKinds(3'000'000);
  auto there = std::async(std::launch::async, [&] { pair.client.send(1, bytes), pair.client.finish(1); });
  pair.server.send(3, bytes, 1'000'001);
  pair.server.finish(3, "end");
  there.get();
  ASSERT_TRUE(finished(pair.server.inbox(), 1));
  ASSERT_TRUE(finished(pair.client.inbox(), 3));
  EXPECT_TRUE(pair.server.inbox().take(1) == bytes);
  EXPECT_TRUE(pair.client.inbox().take(3) == bytes + "end");
  EXPECT_EQ(faults(pair.client.inbox()), std::vector<std::string>());
  EXPECT_EQ(faults(pair.server.inbox()), std::vector<std::string>());
}

TEST(Spdy, FramesMayComeInAnyPieces) {
  SpdyPair pair;
  pair.client.open({{"streamtype", "error"}});
  spdy::Deflater deflater;
  auto bytes = spdy::controlFrame(spdy::SynReply, 0, spdy::number32(1) + deflater.compress(spdy::headerText({}))) +
               spdy::dataHead(1, 0, 3) + "abc" + spdy::dataHead(1, spdy::kFin, 0);
  for (char c : bytes) pair.server.raw(std::string(1, c));
  ASSERT_TRUE(finished(pair.client.inbox(), 1));
  EXPECT_EQ(pair.client.inbox().take(1), "abc");
  EXPECT_EQ(faults(pair.client.inbox()), std::vector<std::string>());
  std::vector<Event> order = {{What::Reply, 1}, {What::Data, 1, 3}, {What::Finish, 1}};
  EXPECT_EQ(pair.client.inbox().now().events, order);
}

TEST(Spdy, PingIsAnsweredAndOtherFramesAreTold) {
  SpdyPair pair;
  pair.client.ping(1);
  EXPECT_TRUE(pair.client.inbox().wait(seconds(5), [](const auto& now) { return now.has({What::Ping, 0, 1}); }));
  pair.client.settings(4, 100);
  pair.client.windowUpdate(1, 1000);
  pair.client.reset(1);
  pair.client.goAway(7, 2);
  EXPECT_TRUE(pair.server.inbox().wait(seconds(5), [](const auto& now) {
    return now.has({What::Other, 1, spdy::WindowUpdate}) && now.has({What::Reset, 1, 5}) &&
           now.has({What::GoAway, 7, 2});
  }));
  pair.client.link().drop(Drop::Fin);
  EXPECT_TRUE(pair.server.inbox().wait(seconds(5), [](const auto& now) { return now.ended.has_value(); }));
}

TEST(Spdy, FaultsOfTheOtherSideAreTold) {
  SpdyPair pair;
  pair.server.raw(spdy::dataHead(9, 0, 1) + "x");
  pair.server.raw(spdy::controlFrame(spdy::Ping, 0, spdy::number32(2), 2));
  pair.server.raw(spdy::controlFrame(spdy::SynReply, 0, spdy::number32(1) + "no zlib"));
  EXPECT_TRUE(pair.client.inbox().wait(seconds(5), [](const auto& now) { return now.faults.size() == 3; }));
}

TEST(Spdy, PausedClientReadsLater) {
  SpdyPair pair;
  pair.client.open({});
  ASSERT_TRUE(pair.server.inbox().wait(seconds(5), [](const auto& now) { return now.stream(1).opened; }));
  pair.client.link().pause(true);
  std::this_thread::sleep_for(milliseconds(50));
  pair.server.reply(1, {});
  pair.server.finish(1, "later");
  EXPECT_FALSE(pair.client.inbox().wait(milliseconds(100), [](const auto& now) { return !now.events.empty(); }));
  pair.client.link().pause(false);
  EXPECT_TRUE(finished(pair.client.inbox(), 1));
}

TEST(WebSocket, FramesAreThoseOfTheRfc) {
  EXPECT_EQ(ws::frame(ws::Text, "Hello", ""), "\x81\x05Hello");
  EXPECT_EQ(ws::frame(ws::Text, "Hello", "\x37\xfa\x21\x3d"), "\x81\x85\x37\xfa\x21\x3d\x7f\x9f\x4d\x51\x58");
  EXPECT_EQ(ws::frame(ws::Text, "Hel", "", false) + ws::frame(ws::Continuation, "lo", ""),
            std::string("\x01\x03Hel\x80\x02lo", 9));
  EXPECT_EQ(ws::frame(ws::Binary, std::string(256, 'x'), "").substr(0, 4), std::string("\x82\x7e\x01\x00", 4));
  EXPECT_EQ(ws::frame(ws::Binary, std::string(65536, 'x'), "").substr(0, 10),
            std::string("\x82\x7f\x00\x00\x00\x00\x00\x01\x00\x00", 10));
}

TEST(WebSocket, MaskedBytesOfAnyLengthArrive) {
  WebSocketPair pair(Carries::Messages);
  std::uint32_t number = 0;
  for (std::size_t size : {0, 1, 7, 8, 9, 125, 126, 127, 65535, 65536, 200'003}) {
    auto bytes = bytesOfAllKinds(size);
    pair.client.message(ws::Binary, bytes);
    ASSERT_TRUE(finished(pair.server.inbox(), number)) << size;
    EXPECT_TRUE(pair.server.inbox().take(number++) == bytes) << size;
  }
  EXPECT_EQ(faults(pair.server.inbox()), std::vector<std::string>());
}

TEST(WebSocket, FragmentsAreOneMessageAndMayHaveAPingBetween) {
  WebSocketPair pair(Carries::Messages);
  auto bytes = bytesOfAllKinds(1000);
  pair.client.fragmented(ws::Binary, bytes, 7);
  pair.client.frame(ws::Binary, "one ", false);
  pair.client.ping("between");
  pair.client.frame(ws::Continuation, "", false);
  pair.client.frame(ws::Continuation, "two", true);
  ASSERT_TRUE(finished(pair.server.inbox(), 1));
  EXPECT_EQ(pair.server.inbox().take(0), bytes);
  EXPECT_EQ(pair.server.inbox().take(1), "one two");
  EXPECT_TRUE(pair.client.inbox().wait(
      seconds(5), [](const auto& now) { return now.stream(1U << 16 | ws::Pong).data == "between"; }));
  EXPECT_EQ(faults(pair.server.inbox()), std::vector<std::string>());
}

TEST(WebSocket, ChannelsAreApartPlainAndInBase64) {
  for (auto carries : {Carries::Channels, Carries::Base64Channels}) {
    WebSocketPair pair(carries);
    auto bytes = bytesOfAllKinds(100'000);
    pair.server.sendChannel(1, "");
    pair.server.sendChannel(1, bytes);
    pair.server.sendChannel(3, "status");
    pair.server.close(1000);
    ASSERT_TRUE(pair.client.inbox().wait(seconds(5), [](const auto& now) { return now.closeCode.has_value(); }));
    auto now = pair.client.inbox().now();
    EXPECT_TRUE(now.stream(1).data == bytes);
    EXPECT_EQ(now.stream(3).data, "status");
    EXPECT_EQ(now.closeCode, 1000);
    std::vector<Event> order = {{What::Empty, 1}, {What::Data, 1, 100'000}, {What::Data, 3, 6}, {What::Close, 0, 1000}};
    EXPECT_EQ(now.events, order);
    EXPECT_TRUE(pair.server.inbox().wait(seconds(5), [](const auto& now) { return now.closeCode == 1000; }))
        << "the client answers";
    EXPECT_EQ(now.faults, std::vector<std::string>());
  }
}

TEST(WebSocket, CloseSignalEndsAChannel) {
  WebSocketPair pair(Carries::Channels);
  pair.client.sendChannel(0, "input");
  pair.client.closeChannel(0);
  ASSERT_TRUE(finished(pair.server.inbox(), 0));
  EXPECT_EQ(pair.server.inbox().take(0), "input");
}

TEST(WebSocket, FaultsOfTheOtherSideAreTold) {
  WebSocketPair pair(Carries::Channels);
  pair.client.unmasked();
  pair.client.sendChannel(0, "x");
  pair.client.frame(ws::Continuation, "x");
  EXPECT_TRUE(pair.server.inbox().wait(seconds(5), [](const auto& now) { return now.faults.size() >= 3; }));
  pair.server.frame(ws::Binary, "\1x", true, 4);
  EXPECT_TRUE(pair.client.inbox().wait(seconds(5), [](const auto& now) { return !now.faults.empty(); }));
}

TEST(Tunnel, SpdyRunsThroughMessages) {
  auto ends = socketPair();
  SpdyConnection client(std::make_unique<WebSocketConnection>(linkOf(std::move(ends.one)), "", Carries::Tunnel));
  SpdyConnection server(std::make_unique<WebSocketConnection>(linkOf(std::move(ends.other)), "", Carries::Tunnel, true),
                        "", true);
  client.open({{"streamtype", "data"}});
  ASSERT_TRUE(server.inbox().wait(seconds(5), [](const auto& now) { return now.stream(1).opened; }));
  server.reply(1, {});
  auto bytes = bytesOfAllKinds(500'000);
  server.send(1, bytes);
  server.finish(1);
  ASSERT_TRUE(finished(client.inbox(), 1));
  EXPECT_TRUE(client.inbox().take(1) == bytes);
  client.link().drop(Drop::Fin);
  EXPECT_TRUE(server.inbox().wait(seconds(5), [](const auto& now) { return now.ended.has_value(); }));
}

}  // namespace userpod::streamtest

// What comes before a stream: URLs, tokens, upgrades and protocols, good and bad.
#include <sys/socket.h>
#include <unistd.h>

#include "tests/conformance/streaming_world.hpp"

namespace userpod::conformance {
namespace {

using streamtest::ask;
using streamtest::askBytes;
using streamtest::replaced;
using streamtest::Request;
using streamtest::spdyRequest;
using streamtest::webSocketRequest;
using streamtest::without;

const std::string kV4 = "v4.channel.k8s.io";
constexpr const char* kAccepted = "X-Accepted-Stream-Protocol-Versions";
constexpr const char* kVersion = "X-Stream-Protocol-Version";

// The URL with another path.
std::string beside(const std::string& url, const std::string& path) {
  return url.substr(0, url.find('/', url.find("://") + 3)) + path;
}
std::string pathOf(const std::string& url) {
  return streamtest::parseUrl(url).path;
}

class StreamingHttp : public testing::Test {
 protected:
  static void SetUpTestSuite() { shared = std::make_unique<Shared>(); }
  static void TearDownTestSuite() { shared.reset(); }
  static const Pod& pod() { return shared->pod; }
  static const Container& container() { return shared->container; }
  static std::string url() { return execUrl(container().id(), "echo runs"); }
  static int status(const Request& request) { return ask(url(), request).answer.status; }
  static void goesOn(const std::source_location& where = std::source_location::current()) {
    auto outcome = ran(streamtest::protocol("SpdyV4"), container(), "echo goes on", kOut, where);
    EXPECT_EQ(outcome.out, "goes on\n");
  }

 private:
  struct Shared {
    Pod pod;
    Container container{pod};
  };
  static inline std::unique_ptr<Shared> shared;
};

}  // namespace

// ---- Tokens

TEST_F(StreamingHttp, UnknownTokenIsNotFound) {
  PROMISE("1.4 token");
  auto base = url();
  for (const auto* kind : {"/exec/", "/attach/", "/portforward/"})
    for (const auto& token : {std::string("AAAAAAAA"), std::string(43, 'A'), std::string(1000, 'A'), std::string("..")})
      for (const auto& request : {spdyRequest({kV4}), webSocketRequest({kV4})})
        EXPECT_EQ(ask(beside(base, kind + token), request).answer.status, 404) << kind << token;
  for (const auto* path : {"/", "/exec", "/exec/", "/nothing", "/exec/a/b", "//", "/exec/%00"}) {
    auto answer = ask(beside(base, path), spdyRequest({kV4})).answer;
    EXPECT_GE(answer.status, 300) << path;
    EXPECT_LT(answer.status, 500) << path;
  }
  EXPECT_EQ(ask(base, spdyRequest({kV4})).answer.status, 101) << "and the token is still good";
}

TEST_F(StreamingHttp, TokenIsWhole) {
  PROMISE("1.4 token");
  auto base = url();
  auto last = base.back() == 'A' ? "B" : "A";
  for (const auto& wrong : {base.substr(0, base.size() - 1) + last, base.substr(0, base.size() - 1), base + "A"})
    EXPECT_EQ(ask(wrong, spdyRequest({kV4})).answer.status, 404) << wrong;
  EXPECT_EQ(ask(base, spdyRequest({kV4})).answer.status, 101);
}

TEST_F(StreamingHttp, TokenIsUsedOnce) {
  PROMISE("1.4 token once");
  for (const auto& used : {url(), forwardUrl(pod().id()), attachUrl(container().id())}) {
    auto protocol = used.find("/portforward/") == std::string::npos ? kV4 : "portforward.k8s.io";
    auto first = ask(used, spdyRequest({protocol}));
    EXPECT_EQ(first.answer.status, 101);
    EXPECT_EQ(ask(used, spdyRequest({protocol})).answer.status, 404);
    first.socket.reset();
    EXPECT_EQ(ask(used, webSocketRequest({kV4})).answer.status, 404);
  }
}

TEST_F(StreamingHttp, TokenUsedAtOnceIsUsedOnce) {
  PROMISE("1.4 token once");
  auto used = url();
  auto statuses = atOnce(20, [&] { return ask(used, spdyRequest({kV4})).answer.status; });
  EXPECT_EQ(std::count(statuses.begin(), statuses.end(), 101), 1);
  EXPECT_EQ(std::count(statuses.begin(), statuses.end(), 404), 19);
}

TEST_F(StreamingHttp, TokenIsOfItsKind) {
  PROMISE("1.4 token");
  auto token = url();
  token = token.substr(token.rfind('/') + 1);
  EXPECT_EQ(ask(beside(url(), "/attach/" + token), spdyRequest({kV4})).answer.status, 404);
  EXPECT_EQ(ask(beside(url(), "/portforward/" + token), spdyRequest({"portforward.k8s.io"})).answer.status, 404);
}

TEST_F(StreamingHttp, TimesAreOver) {
  PROMISE("1.4 token time");
  PROMISE("1.4 stream time");
  auto early = url(), late = url();
  auto begin = std::chrono::steady_clock::now();
  // Meanwhile a client that opens one of its streams.
  auto opened = streamtest::openSpdy(url(), spdyRequest({kV4}));
  ASSERT_EQ(opened.answer.status, 101);
  opened.connection->open({{"streamtype", "error"}});
  Container heir(pod());  // nothing that is started meanwhile keeps the connection
  auto gone = [](const auto& now) { return now.ended.has_value(); };
  EXPECT_FALSE(opened.connection->inbox().wait(seconds(20), gone));
  EXPECT_TRUE(opened.connection->inbox().wait(patience(seconds(15)), gone)) << "30 s are over";
  std::this_thread::sleep_until(begin + seconds(50));
  EXPECT_EQ(ask(early, spdyRequest({kV4})).answer.status, 101);
  std::this_thread::sleep_until(begin + seconds(63));
  EXPECT_EQ(ask(late, spdyRequest({kV4})).answer.status, 404);
}

// ---- Methods and headers

TEST_F(StreamingHttp, PostAndGetAreTaken) {
  PROMISE("1.4 upgrade");
  for (const auto* method : {"POST", "GET"}) {
    auto request = spdyRequest({kV4});
    request.method = method;
    auto opened = streamtest::openSpdy(url(), request);
    ASSERT_EQ(opened.answer.status, 101) << method;
    EXPECT_EQ(opened.answer.one("Upgrade"), "SPDY/3.1");
    EXPECT_THAT(opened.answer.one("Connection"), testing::ContainsRegex("[Uu]pgrade"));
    auto ids = streamtest::openStreams(*opened.connection, streamtest::protocol("SpdyV4"), kOut);
    EXPECT_TRUE(opened.connection->inbox().wait(patience(seconds(10)),
                                                [&](const auto& now) { return now.stream(ids.out).data == "runs\n"; }));
  }
}

TEST_F(StreamingHttp, OtherMethodsAreRefused) {
  PROMISE("1.4 upgrade");
  for (const auto* method : {"PUT", "DELETE", "HEAD", "PATCH", "CONNECT", "NONSENSE"}) {
    auto request = spdyRequest({kV4});
    request.method = method;
    auto answer = ask(url(), request).answer;
    EXPECT_TRUE(answer.status == 0 || (answer.status >= 400 && answer.status < 500)) << method << answer.status;
  }
  goesOn();
}

TEST_F(StreamingHttp, NamesOfHeadersAndUpgradesHaveNoCase) {
  PROMISE("1.4 upgrade");
  Request request{.headers = {{"connection", "keep-alive, Upgrade"},
                              {"upgrade", "spdy/3.1"},
                              {"content-length", "0"},
                              {"x-stream-protocol-version", kV4}}};
  EXPECT_EQ(status(request), 101);
}

TEST_F(StreamingHttp, MissingUpgradeIsABadRequest) {
  PROMISE("1.4 upgrade missing");
  for (const auto* header : {"Upgrade", "Connection"}) {
    auto answer = ask(url(), without(spdyRequest({kV4}), header)).answer;
    EXPECT_EQ(answer.status, 400) << header;
    EXPECT_FALSE(answer.body.empty()) << "says why";
  }
  EXPECT_EQ(status(without(without(spdyRequest({kV4}), "Upgrade"), "Connection")), 400);
}

TEST_F(StreamingHttp, UnknownUpgradeIsABadRequest) {
  PROMISE("1.4 upgrade missing");
  for (const auto* upgrade : {"h2c", "SPDY/2", "TLS/1.0", "", "nonsense"})
    EXPECT_EQ(status(replaced(spdyRequest({kV4}), "Upgrade", upgrade)), 400) << upgrade;
}

TEST_F(StreamingHttp, MissingProtocolIsABadRequest) {
  PROMISE("1.4 protocol missing");
  EXPECT_EQ(status(spdyRequest({})), 400);
  EXPECT_EQ(ask(forwardUrl(pod().id()), spdyRequest({})).answer.status, 400);
}

TEST_F(StreamingHttp, UnknownProtocolsAreForbiddenAndTheKnownTold) {
  PROMISE("1.4 protocol unknown");
  for (const auto& protocols : std::vector<std::vector<std::string>>{{"v5.channel.k8s.io"}, {"nonsense", "v9"}}) {
    auto answer = ask(url(), spdyRequest(protocols)).answer;
    EXPECT_EQ(answer.status, 403) << protocols[0];
    std::string accepted;
    for (const auto& value : answer.all(kAccepted)) accepted += value + ",";
    for (const auto* known : {"v4.channel.k8s.io", "v3.channel.k8s.io", "v2.channel.k8s.io", "channel.k8s.io"})
      EXPECT_THAT(accepted, testing::HasSubstr(known));
  }
  auto answer = ask(forwardUrl(pod().id()), spdyRequest({kV4})).answer;
  EXPECT_EQ(answer.status, 403);
  EXPECT_EQ(answer.one(kAccepted), "portforward.k8s.io");
}

TEST_F(StreamingHttp, FirstSupportedProtocolOfTheClientIsChosen) {
  PROMISE("1.4 protocol choice");
  using Offer = std::vector<std::string>;
  const std::pair<Offer, std::string> offers[] = {{{"v5.channel.k8s.io", kV4, "v3.channel.k8s.io"}, kV4},
                                                  {{"v2.channel.k8s.io", kV4}, "v2.channel.k8s.io"},
                                                  {{"nonsense", "channel.k8s.io", kV4}, "channel.k8s.io"},
                                                  {{"v3.channel.k8s.io", "v3.channel.k8s.io"}, "v3.channel.k8s.io"}};
  for (const auto& [offer, chosen] : offers) {
    auto answer = ask(url(), spdyRequest(offer)).answer;
    EXPECT_EQ(answer.status, 101);
    EXPECT_EQ(answer.all(kVersion), std::vector<std::string>{chosen});
  }
}

TEST_F(StreamingHttp, WebSocketNeedsItsHeaders) {
  PROMISE("1.4 websocket handshake");
  auto good = webSocketRequest({kV4});
  EXPECT_EQ(status(good), 101);
  for (const auto& bad : {without(good, "Sec-WebSocket-Key"), replaced(good, "Sec-WebSocket-Version", "8"),
                          without(good, "Sec-WebSocket-Version"), without(good, "Connection")}) {
    auto answer = ask(url(), bad).answer;
    EXPECT_GE(answer.status, 400) << streamtest::requestText(streamtest::parseUrl(url()), bad);
    EXPECT_LT(answer.status, 500);
  }
}

TEST_F(StreamingHttp, WebSocketChoosesOneThatIsOffered) {
  PROMISE("1.4 websocket handshake");
  auto answer = ask(url(), webSocketRequest({"nonsense", kV4})).answer;
  EXPECT_EQ(answer.status, 101);
  EXPECT_EQ(answer.one("Sec-WebSocket-Protocol"), kV4);
  auto none = ask(url(), webSocketRequest({})).answer;
  EXPECT_EQ(none.status, 101);
  EXPECT_THAT(none.all("Sec-WebSocket-Protocol"), testing::IsEmpty());
  auto unknown = ask(url(), webSocketRequest({"nonsense"})).answer;
  EXPECT_GE(unknown.status, 400) << "a client would take what it did not ask for";
  EXPECT_LT(unknown.status, 500);
}

// ---- What is no request

TEST_F(StreamingHttp, GarbageIsRefused) {
  PROMISE("1.4 garbage");
  auto place = url();
  auto host = "Host: 127.0.0.1\r\n";
  for (const auto& garbage :
       {std::string("\r\n\r\n"), std::string("nonsense\r\n\r\n"), bytesOfAllKinds(10'000) + "\r\n\r\n",
        "POST " + pathOf(place) + "\r\n\r\n", "POST " + pathOf(place) + " HTTP/9.9\r\n" + host + "\r\n",
        "POST " + pathOf(place) + " HTTP/1.1\r\nno colon\r\n\r\n",
        "POST " + pathOf(place) + " HTTP/1.1\r\n" + host + "Content-Length: -1\r\n\r\n",
        "POST " + pathOf(place) + " HTTP/1.1\r\n" + host + "A: b\x01\x02\r\n\r\n",
        std::string("\x16\x03\x01\x00\xa5\x01\x00\x00\xa1\x03\x03\r\n\r\n", 15),  // TLS
        std::string("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")}) {
    auto status = askBytes(place, garbage).answer.status;
    EXPECT_TRUE(status == 0 || (status >= 400 && status <= 505)) << status << " for " << garbage.substr(0, 80);
  }
  goesOn();
}

TEST_F(StreamingHttp, HeadersThatAreTooLargeAreRefused) {
  PROMISE("1.4 header size");
  auto large = spdyRequest({kV4});
  large.headers.emplace_back("X-Large", std::string(4 << 20, 'x'));
  auto many = spdyRequest({kV4});
  for (int i = 0; i < 100'000; ++i) many.headers.emplace_back("X-" + std::to_string(i), "x");
  for (const auto& request : {large, many}) {
    auto status = StreamingHttp::status(request);
    EXPECT_TRUE(status == 0 || (status >= 400 && status < 500)) << status;
  }

  goesOn();
}

TEST_F(StreamingHttp, OrdinaryHeadersOfAProxyAreTaken) {
  PROMISE("1.4 header size");
  auto request = spdyRequest({kV4});
  request.headers.emplace_back("X-Forwarded-For", "10.0.0.1, 10.0.0.2");
  request.headers.emplace_back("Authorization", std::string(4000, 'x'));
  EXPECT_EQ(status(request), 101);
}

TEST_F(StreamingHttp, HalfOpenConnectionsHarmNobody) {
  PROMISE("1.4 half open");
  std::vector<UniqueFd> open;
  auto place = streamtest::parseUrl(url());
  auto text = "POST " + place.path + " HTTP/1.1\r\nHost: x\r\n";
  for (int i = 0; i < 400; ++i) {
    open.push_back(streamtest::connectTo(place));
    if (i % 2 == 1) (void)!::send(open.back().get(), text.data(), text.size(), MSG_NOSIGNAL);
  }
  for (const auto& name : someProtocols())
    EXPECT_EQ(ran(streamtest::protocol(name), container(), "echo goes on").out, "goes on\n");
}

TEST_F(StreamingHttp, ConnectionMayBeUsedAgainOrIsClosed) {
  PROMISE("1.4 upgrade missing");
  auto place = url();
  auto one = streamtest::requestText(streamtest::parseUrl(beside(place, "/exec/AAAA")), spdyRequest({kV4}));
  auto answer = askBytes(place, one + one + one).answer;
  EXPECT_EQ(answer.status, 404);
  goesOn();
}

// ---- How many

TEST(AloneStreaming, PendingRequestsAreLimited) {
  PROMISE("1.4 pending");
  Pod pod;
  std::vector<std::string> urls;
  grpc::Status refused;
  for (int i = 0; i < 1100 && refused.ok(); ++i) {
    auto answer = attempt(forwardRequest(pod.id(), {}));
    refused = answer.status;
    if (refused.ok()) urls.push_back(answer.value.url());
  }
  EXPECT_EQ(refused.error_code(), StatusCode::RESOURCE_EXHAUSTED) << refused.error_message();
  EXPECT_LE(urls.size(), 1000U);
  EXPECT_GE(urls.size(), 900U) << "others may wait too";
  // One that is used makes room for another.
  EXPECT_EQ(ask(urls.front(), spdyRequest({"portforward.k8s.io"})).answer.status, 101);
  auto again = attempt(forwardRequest(pod.id(), {}));
  EXPECT_TRUE(again.status.ok()) << again.status.error_message();
  for (const auto& url : urls) ask(url, spdyRequest({"portforward.k8s.io"}));
  if (again.status.ok()) ask(again.value.url(), spdyRequest({"portforward.k8s.io"}));
}

}  // namespace userpod::conformance

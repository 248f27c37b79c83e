// Port-forward.
#include <sys/socket.h>

#include "tests/conformance/streaming_world.hpp"

namespace userpod::conformance {
namespace {

using streamtest::Forward;
using streamtest::ForwardProtocol;

constexpr std::size_t kMiB = 1 << 20;

std::vector<std::string> names(bool spdyOnly) {
  std::vector<std::string> found;
  for (const auto& one : streamtest::forwardProtocols())
    if (one.spdy || !spdyOnly) found.push_back(one.name);
  return found;
}

// A port of the pod at which nobody listens.
std::uint16_t freePort(const Container& container) {
  return PodServer(container, serveEcho).port();
}

class ForwardTest : public testing::TestWithParam<std::string> {
 protected:
  static void TearDownTestSuite() { shared.reset(); }
  static const Pod& pod() { return one().pod; }
  static const Container& container() { return one().container; }

  const ForwardProtocol& protocol() const { return streamtest::forwardProtocol(GetParam()); }
  std::unique_ptr<Forward> open(const std::vector<std::uint16_t>& ports) const { return open(pod().id(), ports); }
  std::unique_ptr<Forward> open(const std::string& podId, const std::vector<std::uint16_t>& ports) const {
    return Forward::open(protocol(), forwardUrl(podId, ports), ports);
  }

 private:
  struct Shared {
    Pod pod;
    Container container{pod};
  };
  static Shared& one() {
    if (!shared) shared = std::make_unique<Shared>();
    return *shared;
  }
  static inline std::unique_ptr<Shared> shared;
};

void expectNoFaults(const Forward& forward) {
  EXPECT_THAT(forward.faults(), testing::IsEmpty());
}

}  // namespace

// ---- The call

TEST(PortForward, NeedsAnId) {
  PROMISE("1.1.20 request");
  expectFailure(forwardRequest("", {80}), {StatusCode::INVALID_ARGUMENT}, "pod_sandbox_id");
}

TEST(PortForward, UnknownIsNotFound) {
  PROMISE("1.1.20 request");
  expectFailure(forwardRequest(kUnknown, {80}), {StatusCode::NOT_FOUND});
}

TEST(PortForward, NeedsAReadyPod) {
  PROMISE("1.1.20 request");
  Pod pod;
  pod.stop();
  expectFailure(forwardRequest(pod.id(), {80}), {}, "ready|state|running");
}

TEST(PortForward, PortsThatCannotBeAreRefused) {
  PROMISE("1.1.20 request");
  Pod pod;
  // By the call, or by the request to its URL.
  for (int port : {-1, 0, 65536, 1 << 30}) {
    auto request = forwardRequest(pod.id(), {});
    request.add_port(port);
    auto answer = attempt(request);
    if (!answer.status.ok()) continue;
    EXPECT_GE(streamtest::ask(answer.value.url(), streamtest::webSocketRequest({"v4.channel.k8s.io"})).answer.status,
              400)
        << port;
  }
}

TEST(PortForward, StartOfTheIdIsEnough) {
  PROMISE("1.0 prefix");
  Pod pod;
  Container container(pod);
  PodServer server(container, serveText("hello"));
  const auto& spdy = streamtest::forwardProtocol("Spdy");
  auto forward = Forward::open(spdy, forwardUrl(pod.id().substr(0, 13)), {});
  forward->waitFor(forward->connect(server.port()), "hello");
}

// ---- Over each protocol

using ForwardStream = ForwardTest;
INSTANTIATE_TEST_SUITE_P(Each, ForwardStream, testing::ValuesIn(names(false)), nameOf);

TEST_P(ForwardStream, ReachesAServerOnLoopback) {
  PROMISE("1.1.20 loopback");
  PROMISE("1.4 port-forward protocols");
  PodServer server(container(), serveEcho);
  auto forward = open({server.port()});
  auto one = forward->connect(server.port());
  forward->write(one, "to and fro");
  forward->waitFor(one, "to and fro");
  EXPECT_EQ(forward->data(one), "to and fro");
  EXPECT_EQ(forward->error(one), "");
  expectNoFaults(*forward);
}

TEST_P(ForwardStream, ReachesAServerOnLoopbackOfIpv6) {
  PROMISE("1.1.20 ipv6");
  std::unique_ptr<PodServer> server;
  try {
    server = std::make_unique<PodServer>(container(), serveEcho, "::1");
  } catch (const std::runtime_error& e) {
    GTEST_SKIP() << "pods have no IPv6 here: " << e.what();
  }
  auto forward = open({server->port()});
  auto one = forward->connect(server->port());
  forward->write(one, "to and fro");
  forward->waitFor(one, "to and fro");
  expectNoFaults(*forward);
}

TEST_P(ForwardStream, TakesIpv4First) {
  PROMISE("1.1.20 ipv6");
  PodServer four(container(), serveText("four"));
  std::unique_ptr<PodServer> six;
  try {
    six = std::make_unique<PodServer>(container(), serveText("six"), "::1", four.port());
  } catch (const std::runtime_error& e) {
    GTEST_SKIP() << "pods have no IPv6 here: " << e.what();
  }
  auto forward = open({four.port()});
  auto one = forward->connect(four.port());
  ASSERT_TRUE(forward->waitForBytes(one, 3, patience(seconds(10))));
  EXPECT_EQ(forward->data(one), "four");
}

TEST_P(ForwardStream, BytesAreExactBothWays) {
  PROMISE("1.1.20 bytes");
  PodServer server(container(), serveEcho);
  auto bytes = bytesOfAllKinds(6 * kMiB + 13);
  auto forward = open({server.port()});
  auto one = forward->connect(server.port());
  forward->write(one, bytes);
  ASSERT_TRUE(forward->waitForBytes(one, bytes.size(), patience(seconds(30))));
  EXPECT_TRUE(forward->data(one) == bytes);
  expectNoFaults(*forward);
}

TEST_P(ForwardStream, ServerThatSpeaksFirstIsHeardAndItsEndSeen) {
  PROMISE("1.1.20 half-close");
  auto text = bytesOfAllKinds(300'000);
  PodServer server(container(), serveText(text));
  auto forward = open({server.port()});
  auto one = forward->connect(server.port());
  ASSERT_TRUE(forward->waitForBytes(one, text.size(), patience(seconds(20))));
  EXPECT_TRUE(forward->data(one) == text);
  EXPECT_TRUE(forward->waitForEnd(one, patience(seconds(10))) || !forward->halfCloses());
  EXPECT_EQ(forward->error(one), "");
}

TEST_P(ForwardStream, RefusedPortIsToldOnTheErrorStream) {
  PROMISE("1.1.20 refused");
  auto port = freePort(container());
  auto forward = open({port});
  auto one = forward->connect(port);
  ASSERT_TRUE(forward->waitForError(one, patience(seconds(10))));
  std::this_thread::sleep_for(milliseconds(100));
  EXPECT_THAT(forward->error(one), testing::HasSubstr(std::to_string(port)));
  EXPECT_EQ(forward->data(one), "");
}

TEST_P(ForwardStream, SeveralPortsAreApart) {
  PROMISE("1.1.20 several");
  PodServer first(container(), serveText("first")), second(container(), serveText("second"));
  PodServer third(container(), serveEcho);
  auto refused = freePort(container());
  auto forward = open({first.port(), refused, second.port(), third.port()});
  auto echo = forward->connect(third.port()), no = forward->connect(refused);
  auto one = forward->connect(first.port()), two = forward->connect(second.port());
  forward->waitFor(one, "first");
  forward->waitFor(two, "second");
  EXPECT_TRUE(forward->waitForError(no, patience(seconds(10))));
  forward->write(echo, "others live on");
  forward->waitFor(echo, "others live on");
  EXPECT_EQ(forward->data(one), "first");
  EXPECT_EQ(forward->data(two), "second");
  EXPECT_EQ(forward->error(echo) + forward->error(one) + forward->error(two), "");
  expectNoFaults(*forward);
}

TEST_P(ForwardStream, ReachesAServerOnTheNodesNetwork) {
  PROMISE("1.1.20 host network");
  Pod node([](auto& c) { namespacesOf(c)->set_network(v1::NODE); });
  Container inNode(node);
  PodServer server(inNode, serveText("of the node"));
  auto forward = open(node.id(), {server.port()});
  forward->waitFor(forward->connect(server.port()), "of the node");
}

TEST_P(ForwardStream, ClientThatVanishesClosesItsConnections) {
  PROMISE("1.1.20 vanished client");
  std::atomic<int> ended = 0;
  PodServer server(container(), [&](int socket) {
    serveEcho(socket);
    ++ended;
  });
  auto forward = open({server.port()});
  auto one = forward->connect(server.port());
  forward->write(one, "hello");
  forward->waitFor(one, "hello");
  forward->link().drop(streamtest::Drop::Reset);
  waitUntil([&] { return ended == 1; }, "the end of the connection in the pod");
}

TEST_P(ForwardStream, EndOfThePodEndsItsConnections) {
  PROMISE("1.1.20 pod end");
  auto victims = std::make_unique<Pod>();
  auto forward = [&] {
    Container victim(*victims, shell("trap 'exit 0' TERM; nc -ll -p 7777 -e cat & echo up; wait"));
    victim.up();
    victim.exec("until netstat -ltn | grep 7777; do usleep 10000; done", 10);
    auto opened = open(victims->id(), {7777});
    auto one = opened->connect(7777);
    opened->write(one, "hello");
    opened->waitFor(one, "hello");
    return opened;
  }();
  victims.reset();
  EXPECT_TRUE(forward->waitForEnd(0, patience(seconds(10))) || !forward->halfCloses());
}

// ---- SPDY, plain and through WebSocket

using ForwardSpdy = ForwardTest;
INSTANTIATE_TEST_SUITE_P(Each, ForwardSpdy, testing::ValuesIn(names(true)), nameOf);

TEST_P(ForwardSpdy, PortsOfTheRequestMayBeMissing) {
  PROMISE("1.1.20 several");
  PodServer server(container(), serveText("hello"));
  auto forward = open({});
  forward->waitFor(forward->connect(server.port()), "hello");
}

TEST_P(ForwardSpdy, HalfACloseGoesOnToTheServer) {
  PROMISE("1.1.20 half-close");
  PodServer server(container(), serveCount);
  auto forward = open({});
  auto one = forward->connect(server.port()), empty = forward->connect(server.port());
  forward->write(one, std::string(kMiB, 'x'));
  forward->finish(one);
  forward->finish(empty);
  forward->waitFor(one, "1048576\n");
  forward->waitFor(empty, "0\n");
  EXPECT_TRUE(forward->waitForEnd(one, patience(seconds(10))));
  expectNoFaults(*forward);
}

TEST_P(ForwardSpdy, HalfACloseOfTheServerLeavesTheOtherHalf) {
  PROMISE("1.1.20 half-close");
  std::promise<std::string> heard;
  PodServer server(container(), [&](int socket) {
    ::send(socket, "last word", 9, MSG_NOSIGNAL);
    ::shutdown(socket, SHUT_WR);
    std::string text;
    char buffer[100];
    for (ssize_t got; (got = ::recv(socket, buffer, sizeof buffer, 0)) > 0;)
      text.append(buffer, static_cast<std::size_t>(got));
    heard.set_value(text);
  });
  auto forward = open({});
  auto one = forward->connect(server.port());
  forward->waitFor(one, "last word");
  EXPECT_TRUE(forward->waitForEnd(one, patience(seconds(10))));
  forward->write(one, "still ");
  std::this_thread::sleep_for(milliseconds(100));
  forward->write(one, "heard");
  forward->finish(one);
  auto text = heard.get_future();
  ASSERT_EQ(text.wait_for(patience(seconds(10))), std::future_status::ready);
  EXPECT_EQ(text.get(), "still heard");
}

TEST_P(ForwardSpdy, ManyConnectionsAreApart) {
  PROMISE("1.1.20 several");
  PodServer server(container(), serveEcho);
  auto forward = open({});
  std::vector<std::size_t> all;
  for (int i = 0; i < 100; ++i) {
    all.push_back(forward->connect(server.port()));
    forward->write(all.back(), "connection " + std::to_string(i) + ";");
  }
  for (std::size_t i = all.size(); i-- > 0;) {
    auto text = "connection " + std::to_string(i) + ";";
    forward->waitFor(all[i], text);
    EXPECT_EQ(forward->data(all[i]), text);
    forward->finish(all[i]);
  }
  for (auto one : all) EXPECT_TRUE(forward->waitForEnd(one, patience(seconds(10))));
  EXPECT_EQ(server.accepted(), 100);
  expectNoFaults(*forward);
}

TEST_P(ForwardSpdy, OneAfterTheOtherWithoutEnd) {
  PROMISE("1.1.20 several");
  PodServer server(container(), serveText("hello"));
  auto forward = open({});
  for (int i = 0; i < 300; ++i) {
    auto one = forward->connect(server.port());
    ASSERT_TRUE(forward->waitForEnd(one, patience(seconds(10)))) << i;
    ASSERT_EQ(forward->data(one), "hello") << i;
    forward->finish(one);
  }
  expectNoFaults(*forward);
}

TEST_P(ForwardSpdy, StreamsWithoutRequestIdArePairedByTheirIds) {
  PROMISE("1.4 requestid");
  PodServer server(container(), serveText("hello"));
  auto opened = protocol().tunnel
                    ? streamtest::openTunnel(forwardUrl(pod().id()))
                    : streamtest::openSpdy(forwardUrl(pod().id()), streamtest::spdyRequest(protocol().asked));
  ASSERT_EQ(opened.answer.status, 101) << opened.answer.body;
  auto& spdy = *opened.connection;
  auto port = std::to_string(server.port());
  for (int i = 0; i < 3; ++i) {
    spdy.open({{"streamtype", "error"}, {"port", port}});
    auto data = spdy.open({{"streamtype", "data"}, {"port", port}});
    EXPECT_TRUE(
        spdy.inbox().wait(patience(seconds(10)), [&](const auto& now) { return now.stream(data).data == "hello"; }))
        << "pair " << i;
  }
}

TEST_P(ForwardSpdy, StreamsOfAPairMayComeInAnyOrder) {
  PROMISE("1.4 requestid");
  PodServer server(container(), serveText("hello"));
  auto opened = protocol().tunnel
                    ? streamtest::openTunnel(forwardUrl(pod().id()))
                    : streamtest::openSpdy(forwardUrl(pod().id()), streamtest::spdyRequest(protocol().asked));
  ASSERT_EQ(opened.answer.status, 101) << opened.answer.body;
  auto& spdy = *opened.connection;
  auto open = [&](const char* type, const char* request) {
    return spdy.open({{"streamtype", type}, {"port", std::to_string(server.port())}, {"requestid", request}});
  };
  auto one = open("data", "1");
  open("error", "2");
  open("error", "1");
  auto two = open("data", "2");
  for (auto data : {one, two})
    EXPECT_TRUE(spdy.inbox().wait(patience(seconds(10)), [&](const auto& now) {
      return now.stream(data).replied && now.stream(data).data == "hello";
    }));
}

TEST_P(ForwardSpdy, StreamsThatAreNoneAreRefusedAlone) {
  PROMISE("1.4 port-forward headers");
  PodServer server(container(), serveEcho);
  auto port = std::to_string(server.port());
  for (const auto& headers :
       std::vector<streamtest::Headers>{{{"streamtype", "data"}, {"requestid", "9"}},
                                        {{"streamtype", "data"}, {"port", "x"}, {"requestid", "9"}},
                                        {{"streamtype", "data"}, {"port", "0"}, {"requestid", "9"}},
                                        {{"streamtype", "data"}, {"port", "65536"}, {"requestid", "9"}},
                                        {{"streamtype", "banana"}, {"port", port}, {"requestid", "9"}},
                                        {{"port", port}, {"requestid", "9"}},
                                        {}}) {
    auto opened = streamtest::openSpdy(forwardUrl(pod().id()), streamtest::spdyRequest({"portforward.k8s.io"}));
    ASSERT_EQ(opened.answer.status, 101);
    auto id = opened.connection->open(headers);
    EXPECT_TRUE(opened.connection->inbox().wait(patience(seconds(10)), [&](const auto& now) {
      return now.stream(id).reset || now.ended;
    })) << testing::PrintToString(headers);
  }
  EXPECT_EQ(server.accepted(), 0);
}

TEST_P(ForwardSpdy, SlowReaderHoldsUpNobodyElse) {
  PROMISE("1.1.20 slow reader");
  auto bytes = bytesOfAllKinds(20 * kMiB);
  PodServer server(container(), serveText(bytes)), echo(container(), serveEcho);
  auto slow = open({});
  slow->link().pause(true);
  auto one = slow->connect(server.port());
  std::this_thread::sleep_for(seconds(1));
  auto other = open({});
  auto quick = other->connect(echo.port());
  other->write(quick, "quick");
  other->waitFor(quick, "quick");
  slow->link().pause(false);
  ASSERT_TRUE(slow->waitForBytes(one, bytes.size(), patience(seconds(60))));
  EXPECT_TRUE(slow->data(one) == bytes);
}

TEST_P(ForwardSpdy, ServerThatDoesNotReadHoldsUpNoOtherStream) {
  PROMISE("1.1.20 slow reader");
  std::promise<void> enough;
  auto over = enough.get_future().share();
  PodServer deaf(container(), [over](int) { over.wait(); }), echo(container(), serveEcho);
  auto forward = open({});
  auto one = forward->connect(deaf.port()), two = forward->connect(echo.port());
  // Less than the kernel's buffers and the server's own, as there are no windows.
  forward->write(one, std::string(32 << 10, 'x'));
  forward->write(two, "goes on");
  forward->waitFor(two, "goes on");
  enough.set_value();
}

// ---- Channels of WebSocket

using ForwardChannels = ForwardTest;
INSTANTIATE_TEST_SUITE_P(Each, ForwardChannels, testing::Values("WsV4", "WsV4Base64", "WsNone"), nameOf);

TEST_P(ForwardChannels, BeginWithThePort) {
  PROMISE("1.4 port-forward channels");
  PodServer first(container(), serveEcho), second(container(), serveEcho);
  auto forward = open({first.port(), second.port()});
  std::uint32_t channel = 0;
  for (auto port : {first.port(), second.port()}) {
    std::string wanted = {static_cast<char>(port & 0xff), static_cast<char>(port >> 8)};
    for (int i = 0; i < 2; ++i, ++channel) {
      ASSERT_TRUE(
          forward->inbox().wait(patience(seconds(10)), [&](const auto& now) { return now.stream(channel).bytes >= 2; }))
          << "channel " << channel;
      EXPECT_EQ(forward->inbox().now().stream(channel).data.substr(0, 2), wanted) << "channel " << channel;
    }
  }
}

}  // namespace userpod::conformance

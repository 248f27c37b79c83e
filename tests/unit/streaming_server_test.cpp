// The streaming server on its sockets: its limits, and what a stranger on the machine can do.
#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <sys/resource.h>

#include "daemon/streaming/streaming.hpp"
#include "tests/streaming/fake_streams.hpp"

namespace userpod::streaming {
namespace {

UniqueFd listening(std::uint16_t* port) {
  UniqueFd fd(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  sockaddr_in address{AF_INET, 0, {htonl(INADDR_LOOPBACK)}, {}};
  socklen_t size = sizeof(address);
  EXPECT_EQ(::bind(fd.get(), reinterpret_cast<sockaddr*>(&address), size), 0);
  EXPECT_EQ(::listen(fd.get(), 4096), 0);
  EXPECT_EQ(::getsockname(fd.get(), reinterpret_cast<sockaddr*>(&address), &size), 0);
  *port = ntohs(address.sin_port);
  return fd;
}

class OnSockets final : public tests::FakeStreams {
 public:
  Result<network::LoopbackListeners> loopbackListeners() override {
    network::LoopbackListeners listeners;
    std::uint16_t other = 0;
    listeners.host = listening(&listeners.port);
    listeners.node = listening(&other);
    return listeners;
  }
};

class StreamingServer : public testing::Test {
 protected:
  void SetUp() override {
    rlimit limit{};
    ASSERT_EQ(::getrlimit(RLIMIT_NOFILE, &limit), 0);
    descriptors_ = limit.rlim_max;
    limit.rlim_cur = limit.rlim_max;
    ASSERT_EQ(::setrlimit(RLIMIT_NOFILE, &limit), 0);
    auto server = Server::start(core_);
    ASSERT_TRUE(server) << server.error().text();
    server_ = std::move(*server);
  }

  // "http://127.0.0.1:PORT/PATH"
  std::pair<std::uint16_t, std::string> place() {
    auto url = server_->exec("container", {{"waits"}, false, false, true, false, {}});
    EXPECT_TRUE(url);
    auto colon = url->rfind(':');
    auto slash = url->find('/', colon);
    return {static_cast<std::uint16_t>(std::stoi(url->substr(colon + 1))), url->substr(slash)};
  }
  static UniqueFd connected(std::uint16_t port) {
    UniqueFd fd(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    sockaddr_in address{AF_INET, htons(port), {htonl(INADDR_LOOPBACK)}, {}};
    EXPECT_EQ(::connect(fd.get(), reinterpret_cast<sockaddr*>(&address), sizeof(address)), 0);
    return fd;
  }
  // Up to the end of the head.
  static std::string answer(int fd) {
    std::string text;
    pollfd entry{fd, POLLIN, 0};
    char buffer[4096];
    while (text.find("\r\n\r\n") == std::string::npos && ::poll(&entry, 1, 20000) > 0) {
      ssize_t count = ::read(fd, buffer, sizeof(buffer));
      if (count <= 0) break;
      text.append(buffer, static_cast<std::size_t>(count));
    }
    return text;
  }
  static void ask(int fd, const std::string& path) {
    EXPECT_TRUE(writeAll(fd, "POST " + path +
                                 " HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\n" +
                                 "X-Stream-Protocol-Version: v4.channel.k8s.io\r\n\r\n"));
  }

  OnSockets core_;
  std::unique_ptr<Server> server_;
  rlim_t descriptors_ = 0;
};

TEST_F(StreamingServer, ThousandSessionsAndNoMore) {
  if (descriptors_ < 4000) GTEST_SKIP() << "needs 4000 descriptors; ulimit -Hn says " << descriptors_;
  std::vector<UniqueFd> clients;
  for (int i = 0; i < 1000; ++i) {
    auto [port, path] = place();
    clients.push_back(connected(port));
    ask(clients.back().get(), path);
    ASSERT_TRUE(answer(clients.back().get()).starts_with("HTTP/1.1 101 ")) << i;
  }
  auto [port, path] = place();
  auto late = connected(port);
  ask(late.get(), path);
  auto refused = answer(late.get());
  EXPECT_TRUE(refused.starts_with("HTTP/1.1 429 ")) << refused;
  EXPECT_NE(refused.find("\r\nRetry-After: 1\r\n"), std::string::npos);
  clients.pop_back();
  // The refused request has not used the URL up.
  for (int i = 0; i < 100; ++i) {
    auto again = connected(port);
    ask(again.get(), path);
    if (answer(again.get()).starts_with("HTTP/1.1 101 ")) return;
    ::usleep(20000);
  }
  FAIL() << "a session that has ended makes no room";
}

TEST_F(StreamingServer, StrangersWhoSayNothingKeepNobodyOut) {
  if (descriptors_ < 12000) GTEST_SKIP() << "needs 12000 descriptors; ulimit -Hn says " << descriptors_;
  auto [port, path] = place();
  std::vector<UniqueFd> strangers;
  for (int i = 0; i < 10000; ++i) {
    strangers.push_back(connected(port));
    if (i % 3 == 0) (void)writeAll(strangers.back().get(), "GET /exec/");
  }
  auto client = connected(port);
  ask(client.get(), path);
  EXPECT_TRUE(answer(client.get()).starts_with("HTTP/1.1 101 "));
  // Nearly all of them were closed to make room for the next.
  int open = 0;
  for (const auto& stranger : strangers) {
    pollfd entry{stranger.get(), POLLIN, 0};
    if (::poll(&entry, 1, 0) == 0) ++open;
  }
  EXPECT_LE(open, 256);
}

// The monitor waits for its readers, and the container for the monitor.
TEST_F(StreamingServer, WhoAttachesAndReadsNothingIsLetGoOf) {
  auto url = server_->attach("container", {false, false, true, false});
  ASSERT_TRUE(url);
  auto colon = url->rfind(':');
  auto client = connected(static_cast<std::uint16_t>(std::stoi(url->substr(colon + 1))));
  std::string path = url->substr(url->find('/', colon));
  EXPECT_TRUE(writeAll(client.get(), "GET " + path +
                                         " HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
                                         "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
                                         "Sec-WebSocket-Protocol: v4.channel.k8s.io\r\n\r\n"));
  ASSERT_TRUE(answer(client.get()).starts_with("HTTP/1.1 101 "));
  auto begin = std::chrono::steady_clock::now();
  for (int i = 0; i < 100 && core_.attached == 0; ++i) ::usleep(20000);
  ASSERT_EQ(core_.attached, 1);
  std::string packet(8192, 'x');
  packet[0] = 2;
  while (core_.detached == 0 && std::chrono::steady_clock::now() - begin < std::chrono::seconds(40)) {
    (void)!::send(core_.kept.front().get(), packet.data(), packet.size(), MSG_DONTWAIT | MSG_NOSIGNAL);
    ::usleep(100);
  }
  EXPECT_EQ(core_.detached, 1);
  EXPECT_GT(std::chrono::steady_clock::now() - begin, std::chrono::seconds(9));
}

TEST_F(StreamingServer, StopEndsSessionsAndLateAnswersOfTheCore) {
  auto [port, path] = place();
  auto client = connected(port);
  ask(client.get(), path);
  ASSERT_TRUE(answer(client.get()).starts_with("HTTP/1.1 101 "));
  server_->stop();
  char byte = 0;
  EXPECT_EQ(::read(client.get(), &byte, 1), 0);
}

}  // namespace
}  // namespace userpod::streaming

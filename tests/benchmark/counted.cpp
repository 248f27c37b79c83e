#include "tests/benchmark/counted.hpp"

#include <sys/socket.h>
#include <unistd.h>

#include <list>
#include <string>

#include "tests/benchmark/bare_forward.hpp"

namespace userpod::bench {
namespace {

constexpr std::size_t kPassed = 256 << 10;

void pass(int from, int to, std::atomic<std::uint64_t>* count) {
  std::string buffer(kPassed, '\0');
  ssize_t size = 0;
  while ((size = ::read(from, buffer.data(), buffer.size())) > 0) {
    if (count != nullptr) *count += static_cast<std::uint64_t>(size);
    if (!writeAll(to, std::string_view(buffer).substr(0, static_cast<std::size_t>(size)))) break;
  }
  ::shutdown(to, SHUT_WR);
  ::shutdown(from, SHUT_RD);
}

}  // namespace

Result<std::unique_ptr<CountedWay>> CountedWay::open(std::uint16_t to) {
  std::unique_ptr<CountedWay> way(new CountedWay);
  USERPOD_TRY(listener, listenIn("", way->port_));
  way->listener_ = std::move(listener);
  way->thread_ = std::jthread([raw = way.get(), to] { raw->serve(to); });
  return way;
}

CountedWay::~CountedWay() {
  ::shutdown(listener_.get(), SHUT_RDWR);
}

void CountedWay::serve(std::uint16_t to) {
  struct Connection {
    UniqueFd client, server;
    std::jthread up, down;
    ~Connection() {  // a client may keep an idle connection for its next request
      ::shutdown(client.get(), SHUT_RDWR);
      ::shutdown(server.get(), SHUT_RDWR);
    }
  };
  std::list<Connection> connections;
  for (;;) {
    UniqueFd client(::accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC));
    if (!client) return;
    auto server = connectIn("", to);
    if (!server) continue;
    auto& made = connections.emplace_back();
    made.client = std::move(client);
    made.server = std::move(*server);
    made.up = std::jthread([&made] { pass(made.client.get(), made.server.get(), nullptr); });
    made.down = std::jthread([this, &made] { pass(made.server.get(), made.client.get(), &bytes_); });
  }
}

}  // namespace userpod::bench

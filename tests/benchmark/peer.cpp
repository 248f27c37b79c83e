#include "tests/benchmark/peer.hpp"

#include <arpa/inet.h>
#include <fmt/core.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>

#include "tests/benchmark/bare_forward.hpp"

namespace userpod::bench {
namespace {

using Clock = std::chrono::steady_clock;
constexpr unsigned kRoundTrips = 2000;
constexpr std::size_t kPeerPiece = 256 << 10;

sockaddr_in inet(const std::string& address, std::uint16_t port) {
  sockaddr_in name{};
  name.sin_family = AF_INET;
  name.sin_port = htons(port);
  ::inet_pton(AF_INET, address.c_str(), &name.sin_addr);
  return name;
}

// The bytes that come until the end, or until there are so many.
std::uint64_t take(int socket, std::uint64_t most) {
  std::string buffer(kPeerPiece, '\0');
  std::uint64_t seen = 0;
  ssize_t count = 0;
  while (seen < most && (count = ::read(socket, buffer.data(), buffer.size())) > 0)
    seen += static_cast<std::uint64_t>(count);
  return seen;
}

Status give(int socket) {
  const std::string piece(kPeerPiece, '\0');
  for (std::uint64_t sent = 0; sent < kTransferBytes; sent += piece.size()) USERPOD_CHECK(writeAll(socket, piece));
  return {};
}

double rateSince(Clock::time_point begin) {
  return static_cast<double>(kTransferBytes) / 1e6 / std::chrono::duration<double>(Clock::now() - begin).count();
}

double millisecondsSince(Clock::time_point begin) {
  return std::chrono::duration<double, std::milli>(Clock::now() - begin).count();
}

void prepare(int socket) {
  int one = 1;
  (void)::setsockopt(socket, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
  timeval limit{.tv_sec = 60, .tv_usec = 0};
  (void)::setsockopt(socket, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
}

void serveOne(int connection) {
  char byte = 0;
  while (::read(connection, &byte, 1) == 1) {
    if (byte == 'S') {
      (void)give(connection);
      return;
    }
    if (byte == 'R') byte = take(connection, kTransferBytes) == kTransferBytes ? 'k' : '!';
    if (::send(connection, &byte, 1, MSG_NOSIGNAL) != 1) return;
  }
}

}  // namespace

Result<std::unique_ptr<Peer>> Peer::start(const std::string& networkNamespace, std::uint16_t port) {
  std::unique_ptr<Peer> peer(new Peer);
  USERPOD_TRY(socket, tcpSocketIn(networkNamespace));
  auto any = inet("0.0.0.0", port);
  socklen_t size = sizeof any;
  int one = 1;
  (void)::setsockopt(socket.get(), SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
  if (::bind(socket.get(), reinterpret_cast<sockaddr*>(&any), size) < 0 || ::listen(socket.get(), 16) < 0 ||
      ::getsockname(socket.get(), reinterpret_cast<sockaddr*>(&any), &size) < 0)
    return sysError("listen");
  peer->port_ = ntohs(any.sin_port);
  peer->listener_ = std::move(socket);
  peer->thread_ = std::thread([raw = peer.get()] { raw->serve(); });
  return peer;
}

Peer::~Peer() {
  ::shutdown(listener_.get(), SHUT_RDWR);
  if (thread_.joinable()) thread_.join();
}

void Peer::serve() const {
  for (;;) {
    UniqueFd connection(::accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC));
    if (!connection) return;
    prepare(connection.get());
    serveOne(connection.get());
  }
}

Result<UniqueFd> Route::open() const {
  USERPOD_TRY(socket, tcpSocketIn(from));
  auto name = inet(address, port);
  prepare(socket.get());
  if (::connect(socket.get(), reinterpret_cast<sockaddr*>(&name), sizeof name) < 0)
    return sysError(fmt::format("connect to {}:{}", address, port));
  return std::move(socket);
}

Status Route::rate(Samples& samples) const {
  USERPOD_TRY(socket, open());
  auto begin = Clock::now();
  USERPOD_CHECK(writeAll(socket.get(), "S"));
  auto seen = take(socket.get(), kTransferBytes);
  if (seen != kTransferBytes) return Error(Code::Internal, fmt::format("{} bytes of {}", seen, kTransferBytes));
  samples.values.push_back(rateSince(begin));
  return {};
}

Status Route::rateTo(Samples& samples) const {
  USERPOD_TRY(socket, open());
  auto begin = Clock::now();
  USERPOD_CHECK(writeAll(socket.get(), "R"));
  USERPOD_CHECK(give(socket.get()));
  char byte = 0;
  if (::read(socket.get(), &byte, 1) != 1 || byte != 'k') return Error(Code::Internal, "bytes are lost");
  samples.values.push_back(rateSince(begin));
  return {};
}

Status Route::roundTrips(Samples& samples) const {
  USERPOD_TRY(socket, open());
  for (unsigned i = 0; i < kRoundTrips; ++i) {
    auto begin = Clock::now();
    char byte = 'x';
    if (::send(socket.get(), &byte, 1, MSG_NOSIGNAL) != 1 || ::read(socket.get(), &byte, 1) != 1)
      return sysError("a byte there and back");
    samples.values.push_back(millisecondsSince(begin));
  }
  return {};
}

Status Route::connection(Samples& samples) const {
  USERPOD_TRY(socket, tcpSocketIn(from));
  prepare(socket.get());
  auto name = inet(address, port);
  char byte = 'x';
  auto begin = Clock::now();
  if (::connect(socket.get(), reinterpret_cast<sockaddr*>(&name), sizeof name) < 0 ||
      ::send(socket.get(), &byte, 1, MSG_NOSIGNAL) != 1 || ::read(socket.get(), &byte, 1) != 1)
    return sysError(fmt::format("a byte by {}:{}", address, port));
  samples.values.push_back(millisecondsSince(begin));
  return {};
}

Result<PodAt> podAt(Client& client, const std::string& name, std::uint16_t hostPort) {
  USERPOD_TRY(pod, client.runPod(name, false, hostPort));
  USERPOD_TRY(address, client.podAddress(pod));
  return PodAt{"/run/userpod/ns/" + pod.id + "/net", address};
}

}  // namespace userpod::bench

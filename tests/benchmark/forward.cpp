// Rows of port-forward: the rate of one forwarded connection, in both directions.
#include <fmt/core.h>
#include <sys/socket.h>

#include <algorithm>
#include <future>

#include "tests/benchmark/bare_forward.hpp"
#include "tests/benchmark/rows.hpp"
#include "tests/benchmark/stream_client.hpp"

namespace userpod::bench {
namespace {

using Clock = std::chrono::steady_clock;
constexpr std::size_t kClientPiece = 32 << 10;  // what client-go copies at once
constexpr std::chrono::minutes kTransferTime{2};

double rateSince(Clock::time_point begin) {
  return static_cast<double>(kTransferBytes) / 1e6 / std::chrono::duration<double>(Clock::now() - begin).count();
}

// One forwarded connection of a session: its bytes are counted.
class Forwarded {
 public:
  static Result<std::unique_ptr<Forwarded>> open(streamtest::SpdyConnection& connection, unsigned number,
                                                 std::uint16_t port, std::uint64_t expected) {
    std::unique_ptr<Forwarded> made(new Forwarded(connection, expected));
    auto headers = [&](const char* type) {
      return streamtest::Headers{
          {"streamtype", type}, {"port", std::to_string(port)}, {"requestid", std::to_string(number)}};
    };
    const std::uint32_t error = 4 * number + 1;
    made->data_ = error + 2;
    USERPOD_CHECK(openPart(connection, error, headers("error")));
    connection.finish(error);
    USERPOD_CHECK(openPart(connection, made->data_, headers("data"),
                           [self = made.get()](std::string_view bytes) { self->take(bytes.size()); }));
    return made;
  }
  ~Forwarded() {
    connection_.inbox().setSink(data_, [](std::string_view) {});
  }
  Status send(std::string_view bytes) {
    return caught([&]() -> Status {
      connection_.send(data_, bytes, kClientPiece);
      return {};
    });
  }
  Status endInput() {
    return caught([&]() -> Status {
      connection_.finish(data_);
      return {};
    });
  }
  // Until all has come that is expected, and then the end.
  Status wait() {
    if (all_.get_future().wait_for(kTransferTime) != std::future_status::ready)
      return Error(Code::Timeout, fmt::format("of a forwarded connection come {} bytes of {}", bytes_, expected_));
    if (connection_.inbox().wait(kTransferTime,
                                 [&](const auto& seen) { return seen.stream(data_).finished || seen.ended; }))
      return {};
    return Error(Code::Timeout, "a forwarded connection does not end");
  }

 private:
  Forwarded(streamtest::SpdyConnection& connection, std::uint64_t expected)
      : connection_(connection), expected_(expected) {}
  void take(std::size_t count) {
    bytes_ += count;
    if (bytes_ == expected_) all_.set_value();
  }

  streamtest::SpdyConnection& connection_;
  std::uint32_t data_ = 0;
  std::uint64_t expected_;
  std::uint64_t bytes_ = 0;  // of the connection's thread
  std::promise<void> all_;
};

class ForwardRows {
 public:
  ForwardRows(streamtest::SpdyConnection& connection, const ByteServer& server, const SpliceProxy& proxy)
      : connection_(connection), server_(server), proxy_(proxy), piece_(kClientPiece, '\0') {}

  Status one(Row& down, Row& up, bool productFirst) {
    if (productFirst) USERPOD_CHECK(product(down, up));
    USERPOD_CHECK(bare(down, up));
    if (!productFirst) USERPOD_CHECK(product(down, up));
    return {};
  }

 private:
  Status product(Row& down, Row& up) {
    auto begin = Clock::now();
    {
      USERPOD_TRY(forwarded, Forwarded::open(connection_, number_++, server_.port(), kTransferBytes));
      USERPOD_CHECK(forwarded->send("S"));
      USERPOD_CHECK(forwarded->wait());
      USERPOD_CHECK(forwarded->endInput());
    }
    down.product.values.push_back(rateSince(begin));
    begin = Clock::now();
    USERPOD_TRY(forwarded, Forwarded::open(connection_, number_++, server_.port(), 1));
    USERPOD_CHECK(forwarded->send("R"));
    for (std::uint64_t sent = 0; sent < kTransferBytes; sent += piece_.size()) USERPOD_CHECK(forwarded->send(piece_));
    USERPOD_CHECK(forwarded->endInput());
    USERPOD_CHECK(forwarded->wait());
    up.product.values.push_back(rateSince(begin));
    return {};
  }

  Status bare(Row& down, Row& up) {
    auto begin = Clock::now();
    {
      USERPOD_TRY(fd, connectIn("", proxy_.port()));
      USERPOD_CHECK(writeAll(fd.get(), "S"));
      USERPOD_CHECK(drain(fd.get(), kTransferBytes));
    }
    down.bare.values.push_back(rateSince(begin));
    begin = Clock::now();
    USERPOD_TRY(fd, connectIn("", proxy_.port()));
    USERPOD_CHECK(writeAll(fd.get(), "R"));
    for (std::uint64_t sent = 0; sent < kTransferBytes; sent += piece_.size())
      USERPOD_CHECK(writeAll(fd.get(), piece_));
    ::shutdown(fd.get(), SHUT_WR);
    USERPOD_CHECK(drain(fd.get(), 1));
    up.bare.values.push_back(rateSince(begin));
    return {};
  }

  Status drain(int fd, std::uint64_t expected) {
    std::uint64_t seen = 0;
    ssize_t count = 0;
    std::string buffer(64 << 10, '\0');
    while ((count = ::read(fd, buffer.data(), buffer.size())) > 0) seen += static_cast<std::uint64_t>(count);
    if (count < 0) return sysError("read from the bare proxy");
    if (seen == expected) return {};
    return Error(Code::Internal, fmt::format("through the bare proxy come {} bytes of {}", seen, expected));
  }

  streamtest::SpdyConnection& connection_;
  const ByteServer& server_;
  const SpliceProxy& proxy_;
  const std::string piece_;
  unsigned number_ = 0;
};

}  // namespace

Status measurePortForward(const Options& options, Client& client, Report& report) {
  USERPOD_TRY(pod, client.runPod("forward"));
  USERPOD_TRY(id, client.createContainer(pod, "main", options.pauseImage()));
  USERPOD_CHECK(client.startContainer(id));
  USERPOD_TRY(pid, client.containerPid(id));
  const std::string network = fmt::format("/proc/{}/ns/net", pid);
  USERPOD_TRY(server, ByteServer::start(network, kTransferBytes));
  USERPOD_TRY(proxy, SpliceProxy::start(network, server->port()));
  USERPOD_TRY(url, client.portForwardUrl(pod));
  USERPOD_TRY(connection, openStream(url, "portforward.k8s.io"));
  ForwardRows rows(*connection, *server, *proxy);
  Row down{"PortForward, from the pod", {}, {}, "MB/s"};
  Row up{"PortForward, to the pod", {}, {}, "MB/s"};
  for (unsigned round = 0; round < std::min(options.samples, kTransfers); ++round) {
    USERPOD_CHECK(checkInterrupted());
    USERPOD_CHECK(rows.one(down, up, round % 2 == 0));
  }
  report.print(down);
  report.print(up);
  return client.removeAll();
}

}  // namespace userpod::bench

// Rows of exec sessions: how long one takes, how fast its output is, and what many cost at once.
#include <fmt/core.h>

#include <algorithm>
#include <array>
#include <future>
#include <thread>

#include "daemon/sys/util.hpp"
#include "tests/benchmark/rows.hpp"
#include "tests/benchmark/stream_client.hpp"

namespace userpod::bench {
namespace {

using Clock = std::chrono::steady_clock;
constexpr unsigned kWarmUpSessions = 5;
constexpr unsigned kBareNumber = 59999;  // of the sandbox; the lifecycle rows count from 0
constexpr unsigned kSessions = 200;      // at once
constexpr std::size_t kEcho = 64 << 10;  // of each
const std::vector<std::string> kEchoCommand = {"/bin/echo", "hello"};
const std::vector<std::string> kZeros = {"/bin/dd", "if=/dev/zero", "bs=64k", "count=8192", "status=none"};
static_assert(kTransferBytes == 8192ULL * (64 << 10));

double since(Clock::time_point begin) {
  return std::chrono::duration<double, std::milli>(Clock::now() - begin).count();
}

// What comes of a stream: when its first byte came, and when all of so many had.
struct Arrival {
  std::uint64_t bytes = 0;
  Clock::time_point first;
  Clock::time_point last;
  void take(std::size_t count) {
    if (bytes == 0) first = Clock::now();
    bytes += count;
    last = Clock::now();
  }
  double megabytesPerSecond() const {
    return static_cast<double>(bytes) / 1e6 / std::chrono::duration<double>(last - first).count();
  }
};

// The product's container and the bare one beside it.
class ExecRows {
 public:
  ExecRows(const Options& options, Client& client, BareParts& bare)
      : options_(options), client_(client), sandboxes_(*bare.sandboxes), containers_(*bare.containers) {}

  Status open() {
    USERPOD_TRY(pod, client_.runPod("exec"));
    USERPOD_TRY(id, client_.createContainer(pod, "exec", options_.pauseImage()));
    id_ = id;
    USERPOD_CHECK(client_.startContainer(id_));
    USERPOD_CHECK(sandboxes_.make(kBareNumber));
    std::vector<std::pair<std::string, std::string>> pins;
    for (const char* name : {"net", "ipc", "uts"}) pins.emplace_back(name, sandboxes_.pin(kBareNumber, name));
    USERPOD_TRY(prepared, containers_.prepare(2 * kBareNumber, pins));
    bare_ = std::move(prepared);
    return containers_.start(bare_);
  }
  Status close() {
    USERPOD_CHECK(containers_.stop(bare_));
    USERPOD_CHECK(containers_.remove(bare_));
    USERPOD_CHECK(sandboxes_.drop(kBareNumber));
    return client_.removeAll();
  }

  Status sessions(Report& report) {
    Row whole{"ExecSession", {}, {}};
    Row first{"  to its first byte", {}, {}};
    for (unsigned round = 0; round < options_.samples + kWarmUpSessions; ++round) {
      USERPOD_CHECK(checkInterrupted());
      if (round == kWarmUpSessions) whole.product = whole.bare = first.product = first.bare = {};
      if (round % 2 == 0) USERPOD_CHECK(oneSession(whole.product, first.product));
      USERPOD_CHECK(oneBare(whole.bare, first.bare));
      if (round % 2 != 0) USERPOD_CHECK(oneSession(whole.product, first.product));
    }
    report.print(whole);
    report.print(first);
    double more = percentile(whole.product.values, 50) - percentile(whole.bare.values, 50);
    report.print(valueRow("  more than bare crun exec", more, "ms"));
    return {};
  }

  Status rate(Report& report) {
    Row row{"ExecStdout", {}, {}, "MB/s"};
    for (unsigned round = 0; round < std::min(options_.samples, kTransfers); ++round) {
      USERPOD_CHECK(checkInterrupted());
      if (round % 2 == 0) USERPOD_CHECK(transfer(row.product));
      USERPOD_CHECK(bareTransfer(row.bare));
      if (round % 2 != 0) USERPOD_CHECK(transfer(row.product));
    }
    report.print(row);
    return {};
  }

 private:
  // The call Exec, the connection, its streams, the output, the status.
  Status oneSession(Samples& whole, Samples& first) {
    auto begin = Clock::now();
    Arrival arrival;
    USERPOD_TRY(url, client_.execUrl(id_, kEchoCommand, false));
    USERPOD_TRY(session, ExecSession::open(url, false, [&](std::string_view bytes) { arrival.take(bytes.size()); }));
    USERPOD_CHECK(session.wait());
    add(whole, since(begin));
    return addFirst(first, arrival, begin);
  }
  Status oneBare(Samples& whole, Samples& first) {
    auto begin = Clock::now();
    Arrival arrival;
    USERPOD_CHECK(readBare(kEchoCommand, arrival));
    add(whole, since(begin));
    return addFirst(first, arrival, begin);
  }
  static void add(Samples& samples, double milliseconds) {
    samples.values.push_back(milliseconds);
    samples.seconds += milliseconds / 1000;
  }
  static Status addFirst(Samples& samples, const Arrival& arrival, Clock::time_point begin) {
    if (arrival.bytes != 6) return Error(Code::Internal, fmt::format("of \"hello\" come {} bytes", arrival.bytes));
    add(samples, std::chrono::duration<double, std::milli>(arrival.first - begin).count());
    return {};
  }

  Status transfer(Samples& samples) {
    Arrival arrival;
    std::promise<void> all;
    USERPOD_TRY(url, client_.execUrl(id_, kZeros, false));
    USERPOD_TRY(session, ExecSession::open(url, false, [&](std::string_view bytes) {
                  arrival.take(bytes.size());
                  if (arrival.bytes == kTransferBytes) all.set_value();
                }));
    // To wait for the inbox would wake this thread at each frame.
    if (all.get_future().wait_for(std::chrono::minutes(2)) != std::future_status::ready)
      return Error(Code::Timeout, "stdout of an exec session does not arrive");
    USERPOD_CHECK(session.wait());
    samples.values.push_back(arrival.megabytesPerSecond());
    return {};
  }
  Status bareTransfer(Samples& samples) {
    Arrival arrival;
    USERPOD_CHECK(readBare(kZeros, arrival));
    if (arrival.bytes != kTransferBytes)
      return Error(Code::Internal, fmt::format("a bare pipe brings {} bytes", arrival.bytes));
    samples.values.push_back(arrival.megabytesPerSecond());
    return {};
  }
  Status readBare(const std::vector<std::string>& command, Arrival& arrival) {
    USERPOD_TRY(pipe, makePipe());
    USERPOD_TRY(child, containers_.startExec(bare_, command, pipe.write.get()));
    pipe.write.reset();
    std::vector<char> buffer(64 << 10);
    while (true) {
      ssize_t count = ::read(pipe.read.get(), buffer.data(), buffer.size());
      if (count < 0 && errno == EINTR) continue;
      if (count < 0) return sysError("read the bare pipe");
      if (count == 0) break;
      arrival.take(static_cast<std::size_t>(count));
    }
    USERPOD_TRY(status, child.wait());
    return status.code == 0 ? Status()
                            : Error(Code::RuntimeFailed, fmt::format("bare crun exec: exit status {}", status.code));
  }

  const Options& options_;
  Client& client_;
  BareSandboxes& sandboxes_;
  BareContainers& containers_;
  std::string id_;
  BareContainer bare_;
};

// What session `number` sends in its round: no two are alike.
std::string echoText(unsigned number, unsigned round) {
  std::string text;
  for (unsigned line = 0; text.size() < kEcho; ++line)
    text += fmt::format("session {} round {} line {}\n", number, round, line);
  return text;
}

Status echo(std::vector<ExecSession>& sessions, unsigned round) {
  for (unsigned number = 0; number < sessions.size(); ++number)
    USERPOD_CHECK(sessions[number].send(echoText(number, round)));
  for (unsigned number = 0; number < sessions.size(); ++number) {
    auto sent = echoText(number, round);
    USERPOD_TRY(received, sessions[number].receive(sent.size()));
    if (received != sent) return Error(Code::Internal, fmt::format("session {} does not get what it sent", number));
  }
  return {};
}

}  // namespace

Status measureExecSessions(const Options& options, Client& client, BareParts& bare, Report& report) {
  if (!options.wants("ExecSession") && !options.wants("ExecStdout")) return {};
  ExecRows rows(options, client, bare);
  USERPOD_CHECK(rows.open());
  if (options.wants("ExecSession")) USERPOD_CHECK(rows.sessions(report));
  if (options.wants("ExecStdout")) USERPOD_CHECK(rows.rate(report));
  return rows.close();
}

Status measureSessions(const Options& options, Client& client, const UniqueFd& outerMemory, Report& report) {
  USERPOD_TRY(pod, client.runPod("sessions"));
  USERPOD_TRY(id, client.createContainer(pod, "cat", options.pauseImage()));
  USERPOD_CHECK(client.startContainer(id));
  USERPOD_TRY(before, daemonMemory(outerMemory));
  std::vector<ExecSession> sessions;
  for (unsigned number = 0; number < kSessions; ++number) {
    USERPOD_CHECK(checkInterrupted());
    USERPOD_TRY(url, client.execUrl(id, {"/bin/cat"}, true));
    USERPOD_TRY(session, ExecSession::open(url, true));
    sessions.push_back(std::move(session));
  }
  USERPOD_TRY(open, daemonMemory(outerMemory));
  Row echoes{fmt::format("{} sessions, echo of 64 KiB in each", kSessions), {}, {}};
  for (unsigned round = 0; round < std::min(options.samples, kTransfers); ++round) {
    USERPOD_CHECK(checkInterrupted());
    USERPOD_CHECK(timed(echoes.product, [&] { return echo(sessions, round); }));
  }
  USERPOD_TRY(used, daemonMemory(outerMemory));
  for (auto& session : sessions) USERPOD_CHECK(session.endInput());
  for (auto& session : sessions) USERPOD_CHECK(session.wait());
  report.print(valueRow("daemon RSS, before the sessions", before.rss, "MiB"));
  report.print(valueRow(fmt::format("daemon RSS, {} sessions open", kSessions), open.rss, "MiB"));
  report.print(valueRow(fmt::format("daemon RSS, {} sessions used", kSessions), used.rss, "MiB"));
  report.print(valueRow("  of it one session", (used.rss - before.rss) / kSessions * 1024, "KiB"));
  echoes.product.seconds = 0;
  report.print(echoes);
  return client.removeAll();
}

}  // namespace userpod::bench

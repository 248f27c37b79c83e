#include "tests/benchmark/stream_client.hpp"

#include <fmt/core.h>

#include <nlohmann/json.hpp>

namespace userpod::bench {
namespace {

constexpr std::chrono::seconds kReplyTime{30};

Error lost(streamtest::SpdyConnection& connection, const std::string& what) {
  auto inventory = connection.inbox().now();
  return Error(Code::System, fmt::format("{} does not come; the connection is {}", what,
                                         inventory.ended ? "gone: " + *inventory.ended : "open"));
}

}  // namespace

Result<std::unique_ptr<streamtest::SpdyConnection>> openStream(const std::string& url, const std::string& protocol) {
  return caught([&]() -> Result<std::unique_ptr<streamtest::SpdyConnection>> {
    auto opened = streamtest::openSpdy(url, streamtest::spdyRequest({protocol}));
    if (opened.connection) return std::move(opened.connection);
    return Error(Code::System, fmt::format("{}: {} {}", url, opened.answer.status, opened.answer.body));
  });
}

Status openPart(streamtest::SpdyConnection& connection, std::uint32_t id, const streamtest::Headers& headers,
                streamtest::Inbox::Sink sink) {
  return caught([&]() -> Status {
    // Bytes may come at once: what takes them must be there before.
    if (sink) connection.inbox().setSink(id, std::move(sink));
    connection.openAs(id, headers);
    if (connection.inbox().wait(kReplyTime, [&](const auto& seen) { return seen.stream(id).replied || seen.ended; }))
      return {};
    return lost(connection, "the reply to a stream");
  });
}

Result<ExecSession> ExecSession::open(const std::string& url, bool in, streamtest::Inbox::Sink out) {
  ExecSession session;
  USERPOD_TRY(connection, openStream(url, "v4.channel.k8s.io"));
  session.connection_ = std::move(connection);
  session.out_ = in ? kIn + 2 : kIn;
  USERPOD_CHECK(openPart(*session.connection_, kError, {{"streamtype", "error"}}));
  if (in) USERPOD_CHECK(openPart(*session.connection_, kIn, {{"streamtype", "stdin"}}));
  USERPOD_CHECK(openPart(*session.connection_, session.out_, {{"streamtype", "stdout"}}, std::move(out)));
  return session;
}

Status ExecSession::send(std::string_view bytes) {
  return caught([&]() -> Status {
    connection_->send(kIn, bytes);
    return {};
  });
}

Result<std::string> ExecSession::receive(std::size_t bytes) {
  auto& inbox = connection_->inbox();
  if (!inbox.wait(kReplyTime, [&](const auto& seen) { return seen.stream(out_).data.size() >= bytes || seen.ended; }))
    return lost(*connection_, "an echo");
  return inbox.take(out_);
}

Status ExecSession::endInput() {
  return caught([&]() -> Status {
    connection_->finish(kIn);
    return {};
  });
}

Status ExecSession::wait() {
  auto& inbox = connection_->inbox();
  auto over = [&](const auto& seen) {
    return (seen.stream(out_).finished && seen.stream(kError).finished) || seen.ended;
  };
  if (!inbox.wait(kReplyTime, over)) return lost(*connection_, "the end of a command");
  auto status = nlohmann::json::parse(inbox.take(kError), nullptr, false);
  if (status.is_object() && status.value("status", "") == "Success") return {};
  return Error(Code::System, "an exec session ends with " + status.dump());
}

}  // namespace userpod::bench

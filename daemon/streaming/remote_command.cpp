#include "daemon/streaming/remote_command.hpp"

#include <nlohmann/json.hpp>

namespace userpod::streaming {
namespace {

constexpr std::chrono::milliseconds kSizeTime{20};
constexpr std::size_t kMaxSize = 1024;  // bytes of JSON for one terminal size
constexpr std::array<std::string_view, 5> kNames = {"error", "stdin", "stdout", "stderr", "resize"};

std::uint16_t field(const nlohmann::json& object, const char* name) {
  auto found = object.find(name);
  if (found == object.end() || !found->is_number_integer()) return 0;
  auto value = found->get<std::int64_t>();
  return value > 0 && value <= UINT16_MAX ? static_cast<std::uint16_t>(value) : 0;
}

}  // namespace

RemoteCommand::RemoteCommand(SessionContext context, Wanted wanted)
    : Session(std::move(context)), wanted_(wanted), format_(context.format) {
  expected_ = {true, wanted.in, wanted.out, wanted.err, wanted.tty && context.resizes};
}

void RemoteCommand::check(Clock::time_point now) {
  if (!begun_ && now - opened_ > kSetUpTime) return fail("the client has not opened its streams within 30 seconds");
  Session::check(now);
}

bool RemoteCommand::opened(StreamId id, const StreamHeaders& headers) {
  if (begun_) return false;
  auto type = headers.find("streamtype");
  if (type == headers.end()) return false;
  auto name = std::find(kNames.begin(), kNames.end(), type->second);
  if (name == kNames.end()) return false;
  auto& place = streams_.at(static_cast<std::size_t>(name - kNames.begin()));
  if (place) return false;
  place = id;
  for (std::size_t kind = 0; kind < kKinds; ++kind)
    if (expected_[kind] && !streams_[kind]) return true;
  // The size of the terminal follows the last stream; a program that asks for it at once should find it. A client that
  // says none costs this much.
  auto pause = expected_[kResize] && size_.columns == 0 ? kSizeTime : std::chrono::milliseconds(0);
  timer_.expires_after(pause);
  timer_.async_wait([this, weak = weak_from_this()](ErrorCode) {
    auto self = weak.lock();
    if (self && !isOver() && !std::exchange(begun_, true)) begin();
  });
  return true;
}

std::optional<RemoteCommand::Kind> RemoteCommand::kindOf(StreamId id) const {
  for (std::size_t kind = 0; kind < kKinds; ++kind)
    if (streams_[kind] == id) return static_cast<Kind>(kind);
  return std::nullopt;
}

void RemoteCommand::received(StreamId id, std::string_view bytes) {
  auto kind = kindOf(id);
  if (finished_ || !kind) return;
  if (*kind == kStdin && wanted_.in) stdinReceived(bytes);
  if (*kind == kResize && wanted_.tty) parseSizes(bytes);
}

void RemoteCommand::ended(StreamId id) {
  if (!finished_ && kindOf(id) == kStdin && wanted_.in) stdinEnded();
}

void RemoteCommand::reset(StreamId id) {
  auto kind = kindOf(id);
  if (finished_ || !kind) return;
  if (*kind == kStdin && wanted_.in) stdinEnded();
  if (*kind == kStdout || *kind == kStderr) outputUnwanted(*kind);
}

// Flat objects one after the other, cut anywhere. What is none changes nothing.
void RemoteCommand::parseSizes(std::string_view bytes) {
  for (char byte : bytes) {
    if (sizes_.size() < kMaxSize) sizes_ += byte;
    if (byte != '}') continue;
    auto object = nlohmann::json::parse(std::exchange(sizes_, {}), nullptr, false);
    if (!object.is_object()) continue;
    oci::TerminalSize size{field(object, "Width"), field(object, "Height")};
    if (size.columns == 0 || size.rows == 0) continue;
    size_ = size;
    if (begun_)
      resized(size);
    else
      timer_.cancel();  // begin now
  }
}

void RemoteCommand::finish(const Result<std::int32_t>& ended) {
  if (std::exchange(finished_, true)) return;
  for (Kind kind : {kStdout, kStderr})
    if (streams_[kind]) connection_->finish(*streams_[kind]);
  if (streams_[kError]) {
    if (std::string status = statusText(ended, format_); !status.empty()) connection_->send(*streams_[kError], status);
    connection_->finish(*streams_[kError]);
  }
  connection_->close();
}

}  // namespace userpod::streaming

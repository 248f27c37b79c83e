// Sessions over SPDY as client-go opens them: each stream waits for its reply. Errors are values here.
#pragma once

#include <memory>
#include <string>

#include "daemon/sys/error.hpp"
#include "tests/streaming/spdy_client.hpp"

namespace userpod::bench {

template <typename Action>
auto caught(Action&& action) -> decltype(action()) {
  try {
    return action();
  } catch (const std::exception& error) {
    return Error(Code::System, error.what());
  }
}

// The connection to a URL of Exec or PortForward. protocol: what the server is to choose.
Result<std::unique_ptr<streamtest::SpdyConnection>> openStream(const std::string& url, const std::string& protocol);
// A stream of this odd id, to which the server has replied. sink: what takes its bytes, if any.
Status openPart(streamtest::SpdyConnection& connection, std::uint32_t id, const streamtest::Headers& headers,
                streamtest::Inbox::Sink sink = {});

class ExecSession {
 public:
  // out: takes stdout, by the connection's thread; without it stdout is kept. in: with stdin.
  static Result<ExecSession> open(const std::string& url, bool in, streamtest::Inbox::Sink out = {});

  Status send(std::string_view bytes);
  // Until so much of stdout is kept; it is forgotten.
  Result<std::string> receive(std::size_t bytes);
  Status endInput();
  // Until stdout has ended and the status has come. Any but success is an error.
  Status wait();

 private:
  std::unique_ptr<streamtest::SpdyConnection> connection_;
  std::uint32_t out_ = 0;
  static constexpr std::uint32_t kError = 1;
  static constexpr std::uint32_t kIn = 3;
};

}  // namespace userpod::bench

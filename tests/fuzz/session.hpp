// A session of the streaming server on a socket pair, for the targets that play its client.
#pragma once

#include <sys/socket.h>
#include <unistd.h>

#include "daemon/streaming/session.hpp"
#include "tests/fuzz/fuzz.hpp"
#include "tests/streaming/fake_streams.hpp"

namespace userpod::fuzz {

// What the first byte of the input makes of the request.
inline streaming::SessionRequest requestOf(std::uint8_t choice) {
  static const char* const kCommands[] = {"0", "7", "fail", "waits"};
  bool tty = (choice & 4) != 0;
  bool err = !tty && (choice & 8) != 0;
  if ((choice & 3) == 0) return streaming::PortForward{"pod", {80, 65535}};
  if ((choice & 3) == 1) return streaming::Attach{"container", {tty, (choice & 16) != 0, true, err}};
  core::ExecRequest request;
  request.command = {kCommands[choice >> 5 & 3]};
  request.tty = tty;
  request.in = (choice & 16) != 0;
  request.out = true;
  request.err = err;
  return streaming::Exec{"container", request};
}

// Plays one session: the client sends `bytes`, and is gone. Returns what it was sent.
class Play {
 public:
  streaming::asio::io_context& io() { return io_; }
  tests::FakeStreams& core() { return core_; }
  streaming::Socket server() {
    auto pair = makeSocketPair(SOCK_STREAM | SOCK_NONBLOCK);
    streaming::Socket socket(io_);
    socket.assign(streaming::asio::ip::tcp::v4(), pair->first.release());
    client_ = std::move(pair->second);
    return socket;
  }
  std::string run(std::shared_ptr<streaming::Session> session, std::string_view bytes) {
    int overs = 0;
    session->start([&](streaming::Session&) { ++overs; });
    std::string answer;
    while (!bytes.empty() && overs == 0) {
      ssize_t count = ::write(client_.get(), bytes.data(), bytes.size());
      if (count > 0) bytes.remove_prefix(static_cast<std::size_t>(count));
      if (io_.poll() == 0 && count <= 0 && !read(answer)) break;  // it is held, or has stopped reading
      io_.restart();
    }
    ::shutdown(client_.get(), SHUT_WR);
    for (int i = 0; i < 100 && overs == 0; ++i) {
      io_.poll();
      io_.restart();
      read(answer);
    }
    if (overs == 0) session->abort();
    for (int i = 0; i < 10 && overs == 0; ++i) {
      io_.poll();
      io_.restart();
    }
    require(overs == 1, "a session is over once");
    session.reset();
    io_.poll();
    read(answer);
    return answer;
  }

 private:
  bool read(std::string& into) {
    char buffer[4096];
    ssize_t count = ::read(client_.get(), buffer, sizeof(buffer));
    if (count > 0) into.append(buffer, static_cast<std::size_t>(count));
    return count > 0;
  }

  streaming::asio::io_context io_;
  tests::FakeStreams core_;
  UniqueFd client_;
};

// The input as a list of actions: takes bytes from its front; zeros when there are none.
class Script {
 public:
  explicit Script(std::string_view text) : text_(text) {}
  bool more() const { return !text_.empty(); }
  std::uint8_t byte() {
    if (text_.empty()) return 0;
    auto value = static_cast<std::uint8_t>(text_.front());
    text_.remove_prefix(1);
    return value;
  }
  std::string_view bytes(std::size_t most) {
    auto part = text_.substr(0, most);
    text_.remove_prefix(part.size());
    return part;
  }

 private:
  std::string_view text_;
};

}  // namespace userpod::fuzz

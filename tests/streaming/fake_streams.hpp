// A core for sessions without containers: a command that says something and ends as its name tells, a container that
// says something and goes on, a pod without a network.
#pragma once

#include <sys/socket.h>
#include <unistd.h>

#include <atomic>
#include <string>
#include <vector>

#include "daemon/core/core.hpp"

namespace userpod::tests {

class FakeStreams : public core::Streams {
 public:
  // "fail": is not started; a number: says "out" and "err", and ends with it; anything else does not end.
  void openExec(const std::string&, core::ExecRequest request, core::Callback<oci::ExecStreams> started,
                core::Callback<std::int32_t> ended) override {
    last = request;
    const std::string& name = request.command.at(0);
    if (name == "fail") return started(Error(Code::RuntimeFailed, "no such program"));
    oci::ExecStreams streams;
    streams.hangUp = [this] { ++hangUps; };
    if (request.tty) {
      auto pair = makeSocketPair(SOCK_STREAM);
      say(pair->first, "terminal");
      streams.terminal = std::move(pair->second);
      kept.push_back(std::move(pair->first));
    } else {
      if (request.out) streams.out = output("out");
      if (request.err) streams.err = output("err");
      if (request.in) {
        auto pipe = makePipe(O_NONBLOCK);
        streams.in = std::move(pipe->write);
        kept.push_back(std::move(pipe->read));
      }
    }
    started(std::move(streams));
    if (isdigit(static_cast<unsigned char>(name[0])) != 0) ended(std::stoi(name));
  }
  void attach(const std::string&, bool tty, core::Callback<oci::Attachment> done) override {
    auto pair = makeSocketPair(SOCK_SEQPACKET | SOCK_NONBLOCK);
    say(pair->first, "\x02out");
    say(pair->first,
        "\x03"
        "err");
    kept.push_back(std::move(pair->first));
    ++attached;
    done(oci::Attachment{std::move(pair->second), tty, true, stdinOnce});
  }
  void detach(const std::string&, UniqueFd, bool) override { ++detached; }
  void resizeTerminal(const std::string&, oci::TerminalSize, core::DoneCallback done) override { done({}); }
  void podSockets(const std::string&, core::Callback<network::TcpSockets> done) override {
    // They do not know the addresses of TCP: each connection fails, in both families.
    network::TcpSockets sockets;
    sockets.v4.reset(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
    sockets.v6.reset(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
    done(std::move(sockets));
  }
  Result<network::LoopbackListeners> loopbackListeners() override {
    return Error(Code::NotSupported, "no network here");
  }

  core::ExecRequest last;
  int hangUps = 0;
  std::atomic<int> attached = 0;
  std::atomic<int> detached = 0;
  bool stdinOnce = false;
  std::vector<UniqueFd> kept;  // the other ends

 private:
  static void say(const UniqueFd& fd, std::string_view words) { (void)writeAll(fd.get(), words); }
  static UniqueFd output(std::string_view words) {
    auto pipe = makePipe(O_NONBLOCK);
    say(pipe->write, words);
    return std::move(pipe->read);
  }
};

}  // namespace userpod::tests

// Exec, attach and port-forward as the conformance tests use them: the calls for URLs, sessions over each protocol, and
// servers in the network of a pod.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "tests/conformance/world.hpp"
#include "tests/streaming/session.hpp"

namespace userpod::conformance {

using streamtest::Channel;
using streamtest::Event;
using streamtest::Outcome;
using streamtest::Protocol;
using streamtest::Session;
using streamtest::Streams;
using streamtest::What;

// ---- Calls

inline constexpr Streams kOut{.in = false, .out = true, .err = true};
inline constexpr Streams kAll{.in = true, .out = true, .err = true};
inline constexpr Streams kTerminal{.in = true, .out = true, .err = false, .tty = true};

v1::ExecRequest execRequest(const std::string& id, const std::vector<std::string>& words, const Streams& streams);
v1::AttachRequest attachRequest(const std::string& id, const Streams& streams);
v1::PortForwardRequest forwardRequest(const std::string& podId, const std::vector<std::uint16_t>& ports);
std::string execUrl(const std::string& id, const std::string& script, const Streams& streams = kOut);
std::string attachUrl(const std::string& id, const Streams& streams = kOut);
std::string forwardUrl(const std::string& podId, const std::vector<std::uint16_t>& ports = {});

// ---- Sessions

// A shell script in a container.
std::unique_ptr<Session> execute(const Protocol& protocol, const Container& container, const std::string& script,
                                 const Streams& streams = kOut);
std::unique_ptr<Session> attach(const Protocol& protocol, const Container& container, const Streams& streams = kOut);
std::string told(const streamtest::Inventory& now);  // the last events, to be read by people
// Its end, which must come in time and by the protocol, without a fault.
Outcome ended(Session& session, milliseconds time = seconds(20),
              const std::source_location& where = std::source_location::current());
Outcome ran(const Protocol& protocol, const Container& container, const std::string& script,
            const Streams& streams = kOut, const std::source_location& where = std::source_location::current());
// The command ended with this code: by the number, or by the text of protocols that have only that.
void expectCode(const Protocol& protocol, const Outcome& outcome, int code,
                const std::source_location& where = std::source_location::current());

std::string bytesOfAllKinds(std::size_t size, std::uint32_t seed = 1);

// The names of protocols, for parameters of tests.
std::vector<std::string> protocolsWith(const std::function<bool(const Protocol&)>& property);
inline std::vector<std::string> allProtocols() {
  return protocolsWith([](const auto&) { return true; });
}
// One of each kind.
inline std::vector<std::string> someProtocols() {
  return {"SpdyV4", "WsV5", "WsV4"};
}
inline std::string nameOf(const testing::TestParamInfo<std::string>& info) {
  return info.param;
}

// Tests over a protocol that need but one running container, made for the first and removed after the last.
class OverProtocol : public testing::TestWithParam<std::string> {
 public:
  static void TearDownTestSuite();

 protected:
  const Protocol& protocol() const { return streamtest::protocol(GetParam()); }
  static const Pod& pod();
  static const Container& container();
  std::unique_ptr<Session> execute(const std::string& script, const Streams& streams = kOut) const {
    return conformance::execute(protocol(), container(), script, streams);
  }
  Outcome ran(const std::string& script, const Streams& streams = kOut,
              const std::source_location& where = std::source_location::current()) const {
    return conformance::ran(protocol(), container(), script, streams, where);
  }
};

// ---- Servers in the network of a pod

// The work, by a thread of its own in the network namespace of a container of the pod; what it throws is thrown.
void inNetworkOf(const Container& container, const std::function<void()>& work);

// A TCP server there, on 127.0.0.1 or ::1, that serves each connection by a thread of its own.
class PodServer {
 public:
  using Serve = std::function<void(int socket)>;  // closed afterwards
  PodServer(const Container& container, Serve serve, const std::string& address = "127.0.0.1",
            std::uint16_t port = 0);  // 0: a free one
  ~PodServer();
  PodServer(const PodServer&) = delete;
  PodServer& operator=(const PodServer&) = delete;

  std::uint16_t port() const { return port_; }
  int accepted() const { return accepted_; }

 private:
  UniqueFd listener_;
  std::uint16_t port_ = 0;
  std::atomic<int> accepted_ = 0;
  std::mutex mutex_;
  std::vector<int> open_;  // to be shut down at the end
  std::vector<std::thread> serving_;
  std::thread accepting_;
};
// Servers: all comes back, until its end; all is read, then the answer is the number of bytes and a newline.
void serveEcho(int socket);
void serveCount(int socket);
PodServer::Serve serveText(const std::string& text);  // this text, then the end

}  // namespace userpod::conformance

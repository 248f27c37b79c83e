#include "tests/conformance/streaming_world.hpp"

#include <arpa/inet.h>
#include <fcntl.h>
#include <sched.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cstring>

namespace userpod::conformance {
namespace {

struct Shared {
  Pod pod;
  Container container{pod};
};
std::unique_ptr<Shared> shared;

Shared& sharedOne() {
  if (!shared) {
    shared = std::make_unique<Shared>();
    shared->container.up();
  }
  return *shared;
}

void sendAll(int socket, std::string_view bytes) {
  while (!bytes.empty()) {
    auto sent = ::send(socket, bytes.data(), bytes.size(), MSG_NOSIGNAL);
    if (sent <= 0) return;
    bytes.remove_prefix(static_cast<std::size_t>(sent));
  }
}

UniqueFd listenOn(const std::string& address, std::uint16_t& port) {
  bool six = address.find(':') != std::string::npos;
  UniqueFd listener(::socket(six ? AF_INET6 : AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_storage place{};
  socklen_t size = six ? sizeof(sockaddr_in6) : sizeof(sockaddr_in);
  place.ss_family = six ? AF_INET6 : AF_INET;
  auto* numbers = six ? static_cast<void*>(&reinterpret_cast<sockaddr_in6&>(place).sin6_addr)
                      : &reinterpret_cast<sockaddr_in&>(place).sin_addr;
  ::inet_pton(place.ss_family, address.c_str(), numbers);
  reinterpret_cast<sockaddr_in&>(place).sin_port = htons(port);  // at the same place in both kinds
  auto* there = reinterpret_cast<sockaddr*>(&place);
  if (::bind(listener.get(), there, size) != 0 || ::listen(listener.get(), 1024) != 0 ||
      ::getsockname(listener.get(), there, &size) != 0)
    throw std::runtime_error("cannot listen on " + address + " in the pod: " + std::strerror(errno));
  port = ntohs(reinterpret_cast<sockaddr_in&>(place).sin_port);
  return listener;
}

}  // namespace

// ---- Calls

v1::ExecRequest execRequest(const std::string& id, const std::vector<std::string>& words, const Streams& streams) {
  return with<v1::ExecRequest>([&](auto& r) {
    r.set_container_id(id);
    for (const auto& word : words) r.add_cmd(word);
    r.set_tty(streams.tty);
    r.set_stdin(streams.in);
    r.set_stdout(streams.out);
    r.set_stderr(streams.err);
  });
}

v1::AttachRequest attachRequest(const std::string& id, const Streams& streams) {
  return with<v1::AttachRequest>([&](auto& r) {
    r.set_container_id(id);
    r.set_tty(streams.tty);
    r.set_stdin(streams.in);
    r.set_stdout(streams.out);
    r.set_stderr(streams.err);
  });
}

v1::PortForwardRequest forwardRequest(const std::string& podId, const std::vector<std::uint16_t>& ports) {
  return with<v1::PortForwardRequest>([&](auto& r) {
    r.set_pod_sandbox_id(podId);
    for (auto port : ports) r.add_port(port);
  });
}

std::string execUrl(const std::string& id, const std::string& script, const Streams& streams) {
  return call(execRequest(id, {"/bin/sh", "-c", script}, streams)).url();
}

std::string attachUrl(const std::string& id, const Streams& streams) {
  return call(attachRequest(id, streams)).url();
}

std::string forwardUrl(const std::string& podId, const std::vector<std::uint16_t>& ports) {
  return call(forwardRequest(podId, ports)).url();
}

// ---- Sessions

std::unique_ptr<Session> execute(const Protocol& protocol, const Container& container, const std::string& script,
                                 const Streams& streams) {
  return Session::open(protocol, execUrl(container.id(), script, streams), streams);
}

std::unique_ptr<Session> attach(const Protocol& protocol, const Container& container, const Streams& streams) {
  return Session::open(protocol, attachUrl(container.id(), streams), streams);
}

std::string told(const streamtest::Inventory& now) {
  static const char* const names[] = {"open",  "reply", "data",   "empty", "end",
                                      "reset", "ping",  "goaway", "frame", "close"};
  std::string text;
  for (auto at = now.events.size() - std::min<std::size_t>(now.events.size(), 20); at < now.events.size(); ++at) {
    const auto& event = now.events[at];
    text += std::string(names[static_cast<int>(event.what)]) + " " + std::to_string(event.stream) + " " +
            std::to_string(event.value) + "; ";
  }
  return text;
}

Outcome ended(Session& session, milliseconds time, const std::source_location& where) {
  auto outcome = session.finish(patience(time));
  auto fail = [&](const std::string& text) {
    ADD_FAILURE_AT(where.file_name(), static_cast<int>(where.line())) << session.protocol().name << ": " << text;
  };
  const auto& now = outcome.inventory;
  if (!outcome.ended && now.ended)
    fail("the connection ended (" + *now.ended + ") before all streams did: " + told(now));
  if (!outcome.ended && !now.ended)
    fail("no end; so far: " + outcome.out.substr(0, 300) + outcome.error.substr(0, 300));
  for (const auto& fault : now.faults) fail("fault of the server: " + fault);
  return outcome;
}

Outcome ran(const Protocol& protocol, const Container& container, const std::string& script, const Streams& streams,
            const std::source_location& where) {
  auto session = execute(protocol, container, script, streams);
  return ended(*session, seconds(20), where);
}

void expectCode(const Protocol& protocol, const Outcome& outcome, int code, const std::source_location& where) {
  auto number = std::to_string(code);
  bool told = protocol.json || code == 0 ? outcome.code == code && outcome.success == (code == 0)
                                         : outcome.message.find(number) != std::string::npos;
  if (!told)
    ADD_FAILURE_AT(where.file_name(), static_cast<int>(where.line()))
        << protocol.name << ": not the code " << number << ": '" << outcome.error << "'";
}

std::string bytesOfAllKinds(std::size_t size, std::uint32_t seed) {
  std::string bytes(size, '\0');
  for (auto& c : bytes) c = static_cast<char>((seed = seed * 1664525 + 1013904223) >> 24);
  return bytes;
}

std::vector<std::string> protocolsWith(const std::function<bool(const Protocol&)>& property) {
  std::vector<std::string> names;
  for (const auto& one : streamtest::protocols())
    if (property(one)) names.push_back(one.name);
  return names;
}

void OverProtocol::TearDownTestSuite() {
  shared.reset();
}

const Pod& OverProtocol::pod() {
  return sharedOne().pod;
}

const Container& OverProtocol::container() {
  return sharedOne().container;
}

// ---- Servers in the network of a pod

void inNetworkOf(const Container& container, const std::function<void()>& work) {
  auto path = "/proc/" + std::to_string(container.pid()) + "/ns/net";
  UniqueFd space(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  // A thread of its own, as it does not come back.
  std::async(std::launch::async, [&] {
    if (::setns(space.get(), CLONE_NEWNET) != 0)
      throw std::runtime_error("cannot go to the network of the pod: " + std::string(std::strerror(errno)));
    work();
  }).get();
}

PodServer::PodServer(const Container& container, Serve serve, const std::string& address, std::uint16_t port)
    : port_(port) {
  inNetworkOf(container, [&] { listener_ = listenOn(address, port_); });
  accepting_ = std::thread([this, serve = std::move(serve)] {
    for (int socket; (socket = ::accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC)) >= 0;) {
      ++accepted_;
      std::lock_guard lock(mutex_);
      open_.push_back(socket);
      serving_.emplace_back([socket, serve] {
        serve(socket);
        ::shutdown(socket, SHUT_RDWR);
      });
    }
  });
}

PodServer::~PodServer() {
  ::shutdown(listener_.get(), SHUT_RDWR);
  accepting_.join();
  for (int socket : open_) ::shutdown(socket, SHUT_RDWR);
  for (auto& thread : serving_) thread.join();
  for (int socket : open_) ::close(socket);
}

void serveEcho(int socket) {
  std::vector<char> buffer(64 << 10);
  for (ssize_t got; (got = ::recv(socket, buffer.data(), buffer.size(), 0)) > 0;)
    sendAll(socket, {buffer.data(), static_cast<std::size_t>(got)});
}

void serveCount(int socket) {
  std::vector<char> buffer(64 << 10);
  std::uint64_t bytes = 0;
  for (ssize_t got; (got = ::recv(socket, buffer.data(), buffer.size(), 0)) > 0;)
    bytes += static_cast<std::uint64_t>(got);
  sendAll(socket, std::to_string(bytes) + "\n");
}

PodServer::Serve serveText(const std::string& text) {
  return [text](int socket) { sendAll(socket, text); };
}

}  // namespace userpod::conformance

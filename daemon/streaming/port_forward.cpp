#include "daemon/streaming/port_forward.hpp"

#include <arpa/inet.h>
#include <fmt/format.h>
#include <netinet/tcp.h>
#include <sys/socket.h>

#include <cerrno>
#include <charconv>
#include <cstring>

namespace userpod::streaming {
namespace {

constexpr int kMaxAsking = 32;

std::optional<std::uint16_t> portOf(const StreamHeaders& headers) {
  auto found = headers.find("port");
  if (found == headers.end()) return std::nullopt;
  const std::string& text = found->second;
  std::uint16_t port = 0;
  auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), port);
  if (error != std::errc() || end != text.data() + text.size() || port == 0) return std::nullopt;
  return port;
}

int beginConnect(int socket, bool v6, std::uint16_t port) {
  sockaddr_storage storage{};
  socklen_t size = 0;
  if (v6) {
    auto* address = reinterpret_cast<sockaddr_in6*>(&storage);
    *address = {AF_INET6, htons(port), 0, in6addr_loopback, 0};
    size = sizeof(*address);
  } else {
    auto* address = reinterpret_cast<sockaddr_in*>(&storage);
    *address = {AF_INET, htons(port), {htonl(INADDR_LOOPBACK)}, {}};
    size = sizeof(*address);
  }
  if (::connect(socket, reinterpret_cast<sockaddr*>(&storage), size) == 0 || errno == EINPROGRESS) return 0;
  return errno;
}

}  // namespace

PortForwardSession::PortForwardSession(SessionContext context, PortForward request)
    : Session(std::move(context)), request_(std::move(request)), fixed_(context.fixedStreams) {}

bool PortForwardSession::opened(StreamId id, const StreamHeaders& headers) {
  auto type = headers.find("streamtype");
  auto port = portOf(headers);
  if (type == headers.end() || !port) return false;
  bool data = type->second == "data";
  if (!data && type->second != "error") return false;
  // Clients of old give no request id: they open the error stream, and the data stream right after it.
  auto given = headers.find("requestid");
  std::string key = given != headers.end() ? given->second : fmt::format("{}", data ? id - 2 : id);
  auto& tunnel = tunnels_[key];
  if (!tunnel) tunnel = std::make_shared<Tunnel>(Tunnel{key, *port});
  auto& place = data ? tunnel->data : tunnel->error;
  if (place || tunnel->port != *port) return false;
  place = id;
  if (data) {
    tunnel->feeder = std::make_unique<Feeder>(*connection_, Feeder::End::HalfClose);
    byData_[id] = tunnel;
  }
  if (tunnel->data && tunnel->error) connect(tunnel);
  return true;
}

PortForwardSession::TunnelPointer PortForwardSession::byData(StreamId id) const {
  auto found = byData_.find(id);
  return found == byData_.end() ? nullptr : found->second;
}

bool PortForwardSession::alive(const TunnelPointer& tunnel) const {
  auto found = tunnels_.find(tunnel->key);
  return found != tunnels_.end() && found->second == tunnel;
}

void PortForwardSession::received(StreamId id, std::string_view bytes) {
  if (auto tunnel = byData(id)) tunnel->feeder->take(bytes);
}

void PortForwardSession::ended(StreamId id) {
  auto tunnel = byData(id);
  if (!tunnel) return;
  tunnel->clientEnded = true;
  tunnel->feeder->end();
  if (tunnel->podEnded) end(tunnel, "");
}

// Of the data stream: the client wants no more. An error stream may go on its own, once it has its pair.
void PortForwardSession::reset(StreamId id) {
  TunnelPointer unwanted = byData(id);
  for (const auto& [key, tunnel] : tunnels_)
    if (tunnel->error == id && !tunnel->data) unwanted = tunnel;
  if (unwanted) end(unwanted, "");
}

// In turns: the one that sends first fills the connection, and the next time it is another's turn.
void PortForwardSession::flushed() {
  std::vector<std::pair<StreamId, TunnelPointer>> all(byData_.upper_bound(served_), byData_.end());
  all.insert(all.end(), byData_.begin(), byData_.upper_bound(served_));
  for (const auto& [id, tunnel] : all) {
    if (!connection_->ready()) return;
    if (!tunnel->pump || !tunnel->pump->blocked()) continue;
    served_ = id;
    tunnel->pump->flushed();
  }
}

void PortForwardSession::connect(const TunnelPointer& tunnel) {
  // Whoever asks for more at once than a pod's clients do waits: each is work for the core.
  if (++asking_ == kMaxAsking) connection_->hold();
  // The answer does not own the tunnel: that ends with its session, before the connection.
  core_.podSockets(request_.podId,
                   onLoop([this, observed = std::weak_ptr(tunnel)](Result<network::TcpSockets> sockets) {
                     if (asking_-- == kMaxAsking) connection_->release();
                     auto tunnel = observed.lock();
                     if (!tunnel || !alive(tunnel)) return;
                     if (!sockets) return end(tunnel, sockets.error().text());
                     std::vector<std::pair<std::string, UniqueFd>> all;  // the last is tried first
                     if (sockets->v6) all.emplace_back("[::1]", std::move(sockets->v6));
                     if (sockets->v4) all.emplace_back("127.0.0.1", std::move(sockets->v4));
                     tryNext(tunnel, std::move(all));
                   }));
}

void PortForwardSession::tryNext(const TunnelPointer& tunnel, std::vector<std::pair<std::string, UniqueFd>> sockets) {
  if (sockets.empty())
    return end(tunnel, fmt::format("nothing to connect to at port {} of pod {}: {}", tunnel->port, request_.podId,
                                   fmt::join(tunnel->failures, "; ")));
  auto [address, fd] = std::move(sockets.back());
  sockets.pop_back();
  auto note = [address = address](Tunnel& failed, int error) {
    failed.failures.push_back(fmt::format("{}: {}", address, std::strerror(error)));
  };
  if (int error = beginConnect(fd.get(), address.front() == '[', tunnel->port); error != 0) {
    note(*tunnel, error);
    return tryNext(tunnel, std::move(sockets));
  }
  tunnel->connecting = watched(io_, std::move(fd));
  auto rest = std::make_shared<decltype(sockets)>(std::move(sockets));
  tunnel->connecting->async_wait(
      Descriptor::wait_write,
      [this, weak = weak_from_this(), observed = std::weak_ptr(tunnel), rest, note](ErrorCode failed) {
        auto self = weak.lock();
        auto tunnel = observed.lock();
        if (!self || failed || !tunnel || !alive(tunnel)) return;
        auto socket = std::exchange(tunnel->connecting, nullptr);
        int error = 0;
        socklen_t size = sizeof(error);
        (void)::getsockopt(socket->native_handle(), SOL_SOCKET, SO_ERROR, &error, &size);
        if (error == 0) return connected(tunnel, socket);
        note(*tunnel, error);
        tryNext(tunnel, std::move(*rest));
      });
}

void PortForwardSession::connected(const TunnelPointer& tunnel, std::shared_ptr<Descriptor> socket) {
  int on = 1;
  (void)::setsockopt(socket->native_handle(), IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
  tunnel->feeder->start(socket);
  // Not the tunnel itself, which owns the pump.
  tunnel->pump = std::make_unique<Pump>(std::move(socket), *connection_, *tunnel->data,
                                        [this, weak = std::weak_ptr(tunnel)] { podEnded(weak.lock()); });
  tunnel->pump->start();
}

void PortForwardSession::podEnded(const TunnelPointer& tunnel) {
  tunnel->pump.reset();
  tunnel->podEnded = true;
  connection_->finish(*tunnel->data);
  connection_->finish(*tunnel->error);
  if (tunnel->clientEnded || fixed_) end(tunnel, "");  // a channel has no other end
}

// Both of its streams end; what the client still sends on them is thrown away.
void PortForwardSession::end(const TunnelPointer& tunnel, const std::string& problem) {
  if (!alive(tunnel)) return;
  if (tunnel->error) {
    if (!problem.empty()) connection_->send(*tunnel->error, problem);
    connection_->finish(*tunnel->error);
  }
  if (tunnel->data) {
    connection_->finish(*tunnel->data);
    byData_.erase(*tunnel->data);
  }
  tunnel->pump.reset();
  tunnel->feeder.reset();
  tunnels_.erase(std::string(tunnel->key));
  if (fixed_ && tunnels_.empty()) connection_->close();
}

void PortForwardSession::check(Clock::time_point now) {
  std::vector<TunnelPointer> late;
  for (const auto& [key, tunnel] : tunnels_)
    if (!(tunnel->data && tunnel->error) && now - tunnel->begun > kSetUpTime) late.push_back(tunnel);
  for (const auto& tunnel : late) end(tunnel, "the other stream of this request was not opened within 30 seconds");
  Session::check(now);
}

}  // namespace userpod::streaming

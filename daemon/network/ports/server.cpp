#include "daemon/network/ports/server.hpp"

#include <sys/epoll.h>

#include <vector>

#include "daemon/sys/log.hpp"

namespace userpod::ports {
namespace {

constexpr std::chrono::seconds kComplainAgain{10};

}  // namespace

Server::Server(Worker& worker, const Sources& sources) : worker_(worker), sources_(sources) {}

Server::~Server() {
  worker_.everySecond(nullptr);
  for (const auto& [number, port] : ports_) worker_.unwatch(port.socket);
}

Status Server::add(std::uint64_t number, int socket, const ListenAddress& address, ServicePointer service) {
  Port& port = ports_[number];
  port.socket = socket;
  port.service = std::move(service);
  Status watched;
  if (address.udp) {
    port.udp = std::make_unique<UdpPort>(worker_, sources_, socket, port.service);
    watched = port.udp->start();
    worker_.everySecond([this] { everySecond(); });
  } else {
    watched = listen(number, port);
  }
  if (!watched) ports_.erase(number);
  return watched;
}

Status Server::listen(std::uint64_t number, Port& port) {
  port.acceptor = std::make_unique<Acceptor>(port.socket, [this, number](UniqueFd client, const Endpoint& from) {
    // A copy: the port may lead elsewhere meanwhile.
    if (auto found = ports_.find(number); found != ports_.end())
      take(ServicePointer(found->second.service), std::move(client), from);
  });
  return worker_.watch(port.socket, EPOLLIN | EPOLLEXCLUSIVE, *port.acceptor);
}

void Server::replace(std::uint64_t number, ServicePointer service) {
  auto found = ports_.find(number);
  if (found == ports_.end()) return;
  if (found->second.udp) found->second.udp->replace(service);
  found->second.service = std::move(service);
}

void Server::remove(std::uint64_t number) {
  auto found = ports_.find(number);
  if (found == ports_.end()) return;
  worker_.unwatch(found->second.socket);
  if (found->second.acceptor) worker_.retire(std::unique_ptr<Handler>(std::move(found->second.acceptor)));
  if (found->second.udp) worker_.retire(std::unique_ptr<Handler>(std::move(found->second.udp)));
  ports_.erase(found);
}

void Server::everySecond() {
  auto now = Worker::Clock::now();
  bool any = false;
  for (auto& [number, port] : ports_) {
    if (!port.udp) continue;
    port.udp->expire(now);
    any = true;
  }
  // Without UDP nobody is woken.
  if (!any) worker_.everySecond(nullptr);
}

void Server::endConnections(const std::string& podId) {
  std::vector<Connection*> ending;
  for (const auto& [connection, owner] : connections_)
    if (connection->service().podId == podId) ending.push_back(connection);
  for (auto* connection : ending) connection->reset();
  for (auto& [number, port] : ports_)
    if (port.udp) port.udp->endFlows(podId);
}

// One port leaves room for the others, however many connections it is sent.
bool Server::full(const Service& service) {
  auto most = worker_.shared().most;
  bool own = service.counters->open >= static_cast<std::uint64_t>(most / 2);
  if (!own && worker_.shared().connections < most) return false;
  if (auto now = Worker::Clock::now(); now - complained_ > kComplainAgain) {
    complained_ = now;
    logWarning("connections to pod {} are refused: {} are open{}", ofPod(service.podId), own ? most / 2 : most,
               own ? " to this port" : "");
  }
  return true;
}

void Server::take(const ServicePointer& service, UniqueFd client, const Endpoint& address) {
  if (full(*service)) return abortOnClose(client.get());
  auto pod = sources_.connect(*service, address, SOCK_STREAM);
  if (!pod) {
    logDebug("{}", pod.error());
    return abortOnClose(client.get());
  }
  auto made = std::make_unique<Connection>(worker_, service, std::move(client), std::move(pod->fd),
                                           [this](Connection& connection) { ended(connection); });
  Connection& connection = *made;
  connections_.emplace(&connection, std::move(made));
  if (!connection.start()) connection.reset();
}

void Server::ended(Connection& connection) {
  auto found = connections_.find(&connection);
  if (found == connections_.end()) return;
  std::unique_ptr<Turns> retired = std::move(found->second);
  connections_.erase(found);
  worker_.retire(std::move(retired));
}

}  // namespace userpod::ports

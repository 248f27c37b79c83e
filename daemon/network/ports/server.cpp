#include "daemon/network/ports/server.hpp"

#include <sys/epoll.h>

#include <vector>

#include "daemon/sys/log.hpp"

namespace userpod::ports {

Server::~Server() {
  for (const auto& [number, port] : ports_) worker_.unwatch(port.socket);
}

Status Server::add(std::uint64_t number, int socket, const ListenAddress& address, ServicePointer service) {
  if (address.udp) return Error(Code::NotSupported, "UDP");
  Port& port = ports_[number];
  port.socket = socket;
  port.service = std::move(service);
  port.handler = std::make_unique<Acceptor>(worker_, socket, [this, number](UniqueFd client, const Endpoint& from) {
    // A copy: the port may be removed or lead elsewhere meanwhile.
    if (auto found = ports_.find(number); found != ports_.end())
      take(ServicePointer(found->second.service), std::move(client), from);
  });
  auto watched = worker_.watch(socket, EPOLLIN | EPOLLEXCLUSIVE, *port.handler);
  if (!watched) ports_.erase(number);
  return watched;
}

void Server::replace(std::uint64_t number, ServicePointer service) {
  if (auto found = ports_.find(number); found != ports_.end()) found->second.service = std::move(service);
}

void Server::remove(std::uint64_t number) {
  auto found = ports_.find(number);
  if (found == ports_.end()) return;
  worker_.unwatch(found->second.socket);
  worker_.retire(std::move(found->second.handler));
  ports_.erase(found);
}

void Server::endConnections(const std::string& podId) {
  std::vector<Connection*> ending;
  for (const auto& [connection, owner] : connections_)
    if (connection->service().podId == podId) ending.push_back(connection);
  for (auto* connection : ending) connection->reset();
}

void Server::take(const ServicePointer& service, UniqueFd client, const Endpoint& address) {
  if (worker_.limits().connections >= worker_.limits().most) {
    logWarning("a connection of {} is refused: {} are open", address.text(), worker_.limits().most);
    return abortOnClose(client.get());
  }
  auto pod = sources_.connect(*service, address, SOCK_STREAM);
  if (!pod) {
    logDebug("{}", pod.error().text());
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

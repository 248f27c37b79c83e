// What one worker serves: its share of the connections of all listeners, and whole UDP ports.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <unordered_map>

#include "daemon/network/ports/connection.hpp"
#include "daemon/network/ports/listener.hpp"
#include "daemon/network/ports/sources.hpp"
#include "daemon/network/ports/udp.hpp"
#include "daemon/network/ports/worker.hpp"

namespace userpod::ports {

// All methods in the worker's thread, the constructor and the destructor too.
class Server {
 public:
  Server(Worker& worker, const Sources& sources);
  ~Server();

  // The socket stays its owner's, who removes the number first.
  Status add(std::uint64_t number, int socket, const ListenAddress& address, ServicePointer service);
  void replace(std::uint64_t number, ServicePointer service);  // for what comes from now on
  void remove(std::uint64_t number);
  void endConnections(const std::string& podId);

 private:
  struct Port {
    int socket = -1;
    ServicePointer service;
    std::unique_ptr<Acceptor> acceptor;  // of TCP
    std::unique_ptr<UdpPort> udp;        // of UDP
  };
  Status listen(std::uint64_t number, Port& port);
  void everySecond();
  bool full(const Service& service);
  void take(const ServicePointer& service, UniqueFd client, const Endpoint& address);
  void ended(Connection& connection);

  Worker& worker_;
  const Sources& sources_;
  std::unordered_map<std::uint64_t, Port> ports_;
  std::unordered_map<Connection*, std::unique_ptr<Connection>> connections_;
  Worker::Clock::time_point complained_;
};

}  // namespace userpod::ports

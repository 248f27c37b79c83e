// UDP host ports: who wrote lately, and a socket towards the pod for each.
#pragma once

#include <cstddef>
#include <list>
#include <map>
#include <memory>
#include <string>

#include "daemon/network/ports/sources.hpp"
#include "daemon/network/ports/worker.hpp"

namespace userpod::ports {

class Datagrams;

// A port with all its flows, in one worker's thread.
class UdpPort final : public Handler {
 public:
  // The socket stays its owner's.
  UdpPort(Worker& worker, const Sources& sources, int socket, ServicePointer service);
  ~UdpPort() override;

  Status start();
  void onEvents(std::uint32_t events) override;
  void replace(ServicePointer service) { service_ = std::move(service); }  // for new flows
  void endFlows(const std::string& podId);
  void expire(Worker::Clock::time_point now);  // those at rest for too long

 private:
  // What replies need to leave as the client expects them: where the client is, and which address it wrote to.
  struct Peer {
    Endpoint client;
    Endpoint local;  // without a port
    int link = 0;    // of a link-local client
    auto operator<=>(const Peer& other) const {
      if (auto order = client <=> other.client; order != 0) return order;
      return local <=> other.local;
    }
    bool operator==(const Peer& other) const { return (*this <=> other) == 0; }
  };
  struct Flow final : Handler {
    Flow(UdpPort& owner, const Peer& from, ServicePointer where, UniqueFd socket)
        : port(owner), peer(from), service(std::move(where)), fd(std::move(socket)) {}
    void onEvents(std::uint32_t) override {
      if (!over) port.fromPod(*this);
    }
    UdpPort& port;
    const Peer peer;
    const ServicePointer service;
    const UniqueFd fd;
    bool over = false;      // an event may still be under way
    bool claimed = false;   // the client's port too, towards this target
    bool answered = false;  // the pod has written
    Worker::Clock::time_point active;
    std::list<Flow*>::iterator place;  // in the list of its kind
  };

  Flow* flowOf(const Peer& peer);
  Flow* makeFlow(const Peer& peer);
  bool makeRoom();
  void end(Flow& flow);
  void touch(Flow& flow);
  void fromClients(Datagrams& datagrams, unsigned count);
  void fromPod(Flow& flow);
  Peer peerOf(const Datagrams& datagrams, unsigned index) const;

  Worker& worker_;
  const Sources& sources_;
  const int socket_;
  ServicePointer service_;
  std::map<Peer, std::unique_ptr<Flow>> flows_;
  // The longest at rest first.
  std::list<Flow*> asking_;    // the pod has not answered
  std::list<Flow*> answered_;  // it has
};

}  // namespace userpod::ports

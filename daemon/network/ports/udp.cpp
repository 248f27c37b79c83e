#include "daemon/network/ports/udp.hpp"

#include <sys/epoll.h>

#include <algorithm>
#include <cerrno>
#include <vector>

#include "daemon/network/ports/datagrams.hpp"
#include "daemon/sys/log.hpp"

namespace userpod::ports {
namespace {

// As the kernel's own connection tracking has it for UDP, by default a little longer.
constexpr std::chrono::seconds kAskingTime{60};
constexpr std::chrono::seconds kAnsweredTime{180};
constexpr std::size_t kMostFlows = 4096;  // of a port
constexpr int kBatches = 8;               // of one event: then others have their turn
constexpr int kErrors = 8;                // of datagrams before, in a row

}  // namespace

UdpPort::UdpPort(Worker& worker, const Sources& sources, int socket, ServicePointer service)
    : worker_(worker), sources_(sources), socket_(socket), service_(std::move(service)) {}

UdpPort::~UdpPort() {
  while (!flows_.empty()) end(*flows_.begin()->second);
}

Status UdpPort::start() {
  return worker_.watch(socket_, EPOLLIN, *this);
}

void UdpPort::onEvents(std::uint32_t) {
  auto& datagrams = worker_.datagrams();
  int errors = 0;
  for (int batch = 0; batch < kBatches;) {
    int count = datagrams.receive(socket_, true);
    if (count < 0 && ++errors < kErrors) continue;
    if (count <= 0) return;
    fromClients(datagrams, static_cast<unsigned>(count));
    if (static_cast<unsigned>(count) < Datagrams::kCount) return;
    ++batch;
  }
}

UdpPort::Peer UdpPort::peerOf(const Datagrams& datagrams, unsigned index) const {
  Peer peer{.client = datagrams.sender(index)};
  if (auto local = datagrams.local(index)) {
    peer.local = local->address;
    if (peer.client.linkLocal()) peer.link = local->link;
  } else {
    peer.local = Endpoint::any(peer.client.family(), 0);
  }
  return peer;
}

// Datagrams of one client mostly come together.
void UdpPort::fromClients(Datagrams& datagrams, unsigned count) {
  for (unsigned first = 0; first < count;) {
    Peer peer = peerOf(datagrams, first);
    unsigned end = first + 1;
    while (end < count && peerOf(datagrams, end) == peer) ++end;
    if (Flow* flow = flowOf(peer)) {
      touch(*flow);
      datagrams.send(flow->fd.get(), first, end - first);
    }
    first = end;
  }
}

void UdpPort::fromPod(Flow& flow) {
  auto& datagrams = worker_.datagrams();
  int errors = 0;
  for (int batch = 0; batch < kBatches && !flow.over;) {
    int count = datagrams.receive(flow.fd.get(), false);
    // The pod may have refused what was sent before: nothing of UDP says so to the client.
    if (count < 0 && ++errors < kErrors) continue;
    if (count <= 0) return;
    if (!flow.answered) {
      answered_.splice(answered_.end(), asking_, flow.place);
      flow.answered = true;
    }
    touch(flow);
    datagrams.sendTo(socket_, static_cast<unsigned>(count), flow.peer.client, {flow.peer.local, flow.peer.link});
    if (static_cast<unsigned>(count) < Datagrams::kCount) return;
    ++batch;
  }
}

UdpPort::Flow* UdpPort::flowOf(const Peer& peer) {
  auto found = flows_.find(peer);
  return found != flows_.end() ? found->second.get() : makeFlow(peer);
}

UdpPort::Flow* UdpPort::makeFlow(const Peer& peer) {
  if (!makeRoom()) return nullptr;
  // Two sockets of the same client's port towards the same target could not be told apart.
  const Endpoint& target = service_->target(peer.client.family());
  bool claimed = worker_.shared().claims.take(peer.client, target);
  auto pod = sources_.connect(*service_, peer.client, SOCK_DGRAM, claimed);
  if (!pod) {
    if (claimed) worker_.shared().claims.giveBack(peer.client, target);
    logDebug("{}", pod.error());
    return nullptr;
  }
  auto made = std::make_unique<Flow>(*this, peer, service_, std::move(pod->fd));
  Flow* flow = made.get();
  flow->claimed = claimed;
  flow->place = asking_.insert(asking_.end(), flow);
  flows_.emplace(peer, std::move(made));
  ++worker_.shared().connections;
  ++flow->service->counters->open;
  ++flow->service->counters->total;
  if (worker_.watch(flow->fd.get(), EPOLLIN, *flow)) return flow;
  end(*flow);
  return nullptr;
}

// Of those at rest, first the ones whose pod has never answered: somebody who only asks cannot push out the others.
bool UdpPort::makeRoom() {
  bool full = flows_.size() >= kMostFlows || worker_.shared().connections >= worker_.shared().most;
  if (!full) return true;
  if (flows_.empty()) return false;
  end(!asking_.empty() ? *asking_.front() : *answered_.front());
  return true;
}

void UdpPort::end(Flow& flow) {
  flow.over = true;
  worker_.unwatch(flow.fd.get());
  (flow.answered ? answered_ : asking_).erase(flow.place);
  if (flow.claimed) worker_.shared().claims.giveBack(flow.peer.client, flow.service->target(flow.peer.client.family()));
  --worker_.shared().connections;
  --flow.service->counters->open;
  auto found = flows_.find(flow.peer);
  std::unique_ptr<Handler> retired = std::move(found->second);
  flows_.erase(found);
  worker_.retire(std::move(retired));
}

void UdpPort::touch(Flow& flow) {
  flow.active = Worker::Clock::now();
  auto& list = flow.answered ? answered_ : asking_;
  list.splice(list.end(), list, flow.place);
}

void UdpPort::endFlows(const std::string& podId) {
  std::vector<Flow*> ending;
  for (const auto& [peer, flow] : flows_)
    if (flow->service->podId == podId) ending.push_back(flow.get());
  for (auto* flow : ending) end(*flow);
}

void UdpPort::expire(Worker::Clock::time_point now) {
  while (!asking_.empty() && now - asking_.front()->active > kAskingTime) end(*asking_.front());
  while (!answered_.empty() && now - answered_.front()->active > kAnsweredTime) end(*answered_.front());
}

}  // namespace userpod::ports

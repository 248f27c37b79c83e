// What happens to pods and containers, told to every client that follows it.
#pragma once

#include <grpcpp/grpcpp.h>

#include <atomic>
#include <deque>
#include <memory>
#include <mutex>
#include <unordered_map>
#include <vector>

#include "api.grpc.pb.h"
#include "daemon/core/core.hpp"
#include "daemon/sys/executor.hpp"

namespace userpod::cri {

namespace v1 = ::runtime::v1;

// Each client has a queue of its own: one that reads slowly holds up neither the others nor the core. What it is behind
// with is kept as records, not as messages. When a queue is full, the oldest event in it goes: each has the whole state
// of its pod, so the newest are worth the most, and what a client learns last is true.
class EventHub {
 public:
  using Reactor = grpc::ServerWriteReactor<v1::ContainerEventResponse>;
  static constexpr std::size_t kQueue = 1000;

  // The core outlives the hub.
  static Result<std::unique_ptr<EventHub>> start(core::Core& core);
  ~EventHub();

  // A new client. It hears what happens after its answer's headers, and, within half a minute of the daemon's start,
  // what that found to have happened before it, and what has happened since then until the first client came. Any
  // thread; the reactor is gRPC's and ends before the hub does.
  Reactor* follow();
  // Ends all streams with UNAVAILABLE, each when its client has read what there is; new ones at once. Any thread.
  void close();

  struct Counts {
    std::size_t clients = 0;
    std::uint64_t dropped = 0;  // for all clients there were
  };
  Counts counts() const { return {clientCount_, dropped_}; }

 private:
  class Client;
  using EventPointer = std::shared_ptr<const core::Event>;
  using ClientId = std::uint64_t;
  struct Queue {
    Client* client = nullptr;
    std::deque<EventPointer> events;
    bool writing = true;  // the headers, at first
    std::uint64_t dropped = 0;
  };
  // Where the core's listener finds the hub, for as long as there is one.
  struct Gate {
    std::mutex mutex;
    EventHub* hub = nullptr;
  };

  EventHub() = default;
  void tell(const core::Event& event);
  // On the loop.
  void add(ClientId id, Client* client);
  void keep(const EventPointer& event);
  void push(Queue& queue, const EventPointer& event);
  void writeNext(Queue& queue);
  void written(ClientId id, bool ok);
  void finish(ClientId id, const grpc::Status& status);
  void countDropped(Queue& queue, std::string_view why);

  std::shared_ptr<Gate> gate_ = std::make_shared<Gate>();
  std::atomic<ClientId> nextId_ = 0;
  std::atomic<std::size_t> clientCount_ = 0;
  std::atomic<std::uint64_t> dropped_ = 0;
  std::atomic<bool> awaited_ = true;  // no client has come yet, but one may come back; the loop changes it
  // The loop's.
  std::unordered_map<ClientId, Queue> queues_;
  std::deque<EventPointer> missed_;  // by all clients, for the daemon's start; the newest
  EventLoop::Clock::time_point nextWarning_;
  bool closed_ = false;
  std::unique_ptr<EventLoop> loop_;  // last: its thread uses the others
};

// False: the event does not fit into a message.
bool fillEvent(const core::Event& event, v1::ContainerEventResponse* message);

}  // namespace userpod::cri

#include "daemon/cri/events.hpp"

#include "daemon/cri/calls.hpp"
#include "daemon/cri/containers.hpp"
#include "daemon/cri/limits.hpp"
#include "daemon/cri/pods.hpp"
#include "daemon/sys/log.hpp"

namespace userpod::cri {
namespace {

// Clients are back sooner that were connected to the daemon before this one.
constexpr std::chrono::seconds kBackWithin{30};
constexpr std::chrono::seconds kWarnEach{10};

}  // namespace

// gRPC calls it on its own threads: it hands all to the hub's loop, which alone starts what is next.
class EventHub::Client final : public Reactor {
 public:
  Client(EventHub& hub, ClientId id) : hub_(hub), id_(id) {}

  void write() { StartWrite(&message_); }
  v1::ContainerEventResponse& message() { return message_; }

  void OnSendInitialMetadataDone(bool ok) override { written(ok); }
  void OnWriteDone(bool ok) override { written(ok); }
  void OnCancel() override {
    hub_.loop_->post([&hub = hub_, id = id_] { hub.finish(id, grpc::Status::CANCELLED); });
  }
  void OnDone() override {
    --hub_.clientCount_;
    delete this;
  }

 private:
  void written(bool ok) {
    hub_.loop_->post([&hub = hub_, id = id_, ok] { hub.written(id, ok); });
  }

  EventHub& hub_;
  ClientId id_;
  v1::ContainerEventResponse message_;  // under way
};

bool fillEvent(const core::Event& event, v1::ContainerEventResponse* message) {
  message->Clear();
  message->set_container_id(event.id);
  message->set_container_event_type(static_cast<v1::ContainerEventType>(event.kind));
  message->set_created_at(event.time);
  fillStatus(*event.pod, message->mutable_pod_sandbox_status());
  for (const auto& container : event.containers)
    if (visible(*container)) fillStatus(*container, message->add_containers_statuses());
  return message->ByteSizeLong() <= kMaxMessage;
}

Result<std::unique_ptr<EventHub>> EventHub::start(core::Core& core) {
  std::unique_ptr<EventHub> hub(new EventHub());
  USERPOD_TRY(loop, EventLoop::start("cri-events"));
  hub->loop_ = std::move(loop);
  hub->gate_->hub = hub.get();
  hub->loop_->post([raw = hub.get()] {
    raw->loop_->runAfter(kBackWithin, [raw] {
      raw->awaited_ = false;
      raw->missed_.clear();
    });
  });
  core.subscribeEvents([gate = hub->gate_](const core::Event& event) {
    std::lock_guard lock(gate->mutex);
    if (gate->hub != nullptr) gate->hub->tell(event);
  });
  return hub;
}

EventHub::~EventHub() {
  std::lock_guard lock(gate_->mutex);
  gate_->hub = nullptr;
}

// On the core strand.
void EventHub::tell(const core::Event& event) {
  if (event.origin != Origin::Cri) return;
  if (clientCount_ == 0 && !awaited_ && !event.late) return;
  loop_->post([this, event = std::make_shared<const core::Event>(event)] {
    if (awaited_ || event->late) keep(event);
    for (auto& [id, queue] : queues_) push(queue, event);
  });
}

void EventHub::keep(const EventPointer& event) {
  if (missed_.size() == kQueue) missed_.pop_front();
  missed_.push_back(event);
}

EventHub::Reactor* EventHub::follow() {
  ClientId id = ++nextId_;
  ++clientCount_;
  auto* client = new Client(*this, id);
  loop_->post([this, id, client] { add(id, client); });
  return client;
}

void EventHub::add(ClientId id, Client* client) {
  if (closed_) return client->Finish(toGrpc(stopping()));
  awaited_ = false;
  Queue& queue = queues_[id];
  queue.client = client;
  for (const auto& event : missed_) push(queue, event);
  client->StartSendInitialMetadata();
}

void EventHub::push(Queue& queue, const EventPointer& event) {
  if (queue.events.size() == kQueue) {
    queue.events.pop_front();
    countDropped(queue, "it reads too slowly");
  }
  queue.events.push_back(event);
  if (!queue.writing) writeNext(queue);
}

void EventHub::writeNext(Queue& queue) {
  queue.writing = false;
  while (!queue.events.empty()) {
    bool fits = fillEvent(*queue.events.front(), &queue.client->message());
    queue.events.pop_front();
    if (fits) {
      queue.writing = true;
      return queue.client->write();
    }
    countDropped(queue, "its pod's labels and annotations do not fit into a message");
  }
}

void EventHub::written(ClientId id, bool ok) {
  auto found = queues_.find(id);
  if (found == queues_.end()) return;
  if (!ok) return finish(id, grpc::Status::CANCELLED);
  writeNext(found->second);
  if (closed_ && !found->second.writing) finish(id, toGrpc(stopping()));
}

void EventHub::finish(ClientId id, const grpc::Status& status) {
  auto found = queues_.find(id);
  if (found == queues_.end()) return;
  auto [client, dropped] = std::pair(found->second.client, found->second.dropped);
  queues_.erase(found);
  if (dropped > 0) logWarning("a client that followed events has gone; it has missed {}", dropped);
  client->Finish(status);
}

void EventHub::close() {
  loop_->post([this] {
    closed_ = true;
    std::vector<ClientId> over;
    for (const auto& [id, queue] : queues_)
      if (!queue.writing) over.push_back(id);
    for (auto id : over) finish(id, toGrpc(stopping()));
  });
}

void EventHub::countDropped(Queue& queue, std::string_view why) {
  ++queue.dropped;
  ++dropped_;
  auto now = EventLoop::Clock::now();
  if (now < nextWarning_) return;
  nextWarning_ = now + kWarnEach;
  logWarning("an event is lost for one of {} clients that follow events: {}; it has missed {}", queues_.size(), why,
             queue.dropped);
}

}  // namespace userpod::cri

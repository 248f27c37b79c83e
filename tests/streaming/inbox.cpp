#include "tests/streaming/inbox.hpp"

#include <algorithm>

namespace userpod::streamtest {

const Stream& Inventory::stream(std::uint32_t id) const {
  static const Stream none;
  auto found = streams.find(id);
  return found == streams.end() ? none : found->second;
}

bool Inventory::has(const Event& event) const {
  return std::find(events.begin(), events.end(), event) != events.end();
}

Inventory Inbox::now() const {
  std::lock_guard lock(mutex_);
  return inventory_;
}

bool Inbox::wait(milliseconds time, const std::function<bool(const Inventory&)>& condition) const {
  std::unique_lock lock(mutex_);
  return changed_.wait_for(lock, time, [&] { return condition(inventory_); });
}

void Inbox::setSink(std::uint32_t stream, Sink sink) {
  std::lock_guard lock(mutex_);
  auto& data = inventory_.streams[stream].data;
  if (!data.empty()) sink(data);
  data.clear();
  sinks_[stream] = std::move(sink);
}

std::string Inbox::take(std::uint32_t stream) {
  std::lock_guard lock(mutex_);
  return std::exchange(inventory_.streams[stream].data, {});
}

void Inbox::data(std::uint32_t id, std::string_view bytes) {
  std::lock_guard lock(mutex_);
  auto& stream = inventory_.streams[id];
  if (stream.finished) inventory_.faults.push_back("data on stream " + std::to_string(id) + " after its end");
  stream.bytes += bytes.size();
  auto& events = inventory_.events;
  if (!events.empty() && events.back().what == What::Data && events.back().stream == id) {
    events.back().value += bytes.size();
  } else {
    events.push_back({What::Data, id, bytes.size()});
  }
  if (auto sink = sinks_.find(id); sink != sinks_.end()) {
    sink->second(bytes);
  } else {
    stream.data += bytes;
  }
  changed_.notify_all();
}

void Inbox::event(Event event) {
  std::lock_guard lock(mutex_);
  auto name = "stream " + std::to_string(event.stream);
  auto& faults = inventory_.faults;
  inventory_.events.push_back(event);
  switch (event.what) {
    case What::Open:
      inventory_.streams[event.stream].opened = true;
      break;
    case What::Reply:
      if (std::exchange(inventory_.streams[event.stream].replied, true)) faults.push_back("two replies on " + name);
      break;
    case What::Finish:
      if (std::exchange(inventory_.streams[event.stream].finished, true)) faults.push_back("two ends of " + name);
      break;
    case What::Reset:
      inventory_.streams[event.stream].reset = static_cast<std::uint32_t>(event.value);
      break;
    default:
      break;
  }
  changed_.notify_all();
}

void Inbox::headers(std::uint32_t stream, Headers headers) {
  std::lock_guard lock(mutex_);
  inventory_.streams[stream].headers = std::move(headers);
}

void Inbox::fault(std::string text) {
  std::lock_guard lock(mutex_);
  inventory_.faults.push_back(std::move(text));
  changed_.notify_all();
}

void Inbox::closed(int code, std::string reason) {
  std::lock_guard lock(mutex_);
  if (inventory_.closeCode) inventory_.faults.push_back("two close frames");
  inventory_.closeCode = code;
  inventory_.closeReason = std::move(reason);
  inventory_.events.push_back({What::Close, 0, static_cast<std::uint64_t>(code)});
  changed_.notify_all();
}

void Inbox::ended(const std::string& why) {
  std::lock_guard lock(mutex_);
  inventory_.ended = why;
  changed_.notify_all();
}

}  // namespace userpod::streamtest

#include "daemon/stats/layers.hpp"

#include <pthread.h>
#include <sys/resource.h>

#include <algorithm>

#include "daemon/sys/cpu_time.hpp"
#include "daemon/sys/util.hpp"

namespace userpod::stats {
namespace {

constexpr std::chrono::milliseconds kSlice{2};   // of processor time, between looks at what else there is to do
constexpr std::chrono::milliseconds kLarge{20};  // a layer that takes more is a large one

}  // namespace

Layers::Layers(Path path, Pace pace) : path_(std::move(path)), pace_(pace) {
  thread_ = std::thread([this] { run(); });
  ::pthread_setname_np(thread_.native_handle(), "stats-layers");
}

Layers::~Layers() {
  {
    std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  changed_.notify_all();
  thread_.join();
}

void Layers::want(Layer& layer, Clock::time_point due) {
  layer.wanted = true;
  layer.due = due;
  if (layer.busy || due >= wakes_) return;
  wakes_ = due;
  changed_.notify_one();
}

void Layers::follow(const std::string& id, bool resting) {
  std::lock_guard lock(mutex_);
  auto [known, added] = layers_.try_emplace(id);
  Layer& layer = known->second;
  if (!added && (layer.resting || !resting)) return;
  layer.resting = resting;
  want(layer, Clock::now() + pace_.first);
}

void Layers::forget(const std::string& id) {
  std::lock_guard lock(mutex_);
  layers_.erase(id);
}

std::optional<LayerFigures> Layers::of(const std::string& id) {
  std::lock_guard lock(mutex_);
  auto found = layers_.find(id);
  if (found == layers_.end()) return std::nullopt;
  Layer& layer = found->second;
  if (!layer.wanted && !layer.resting) want(layer, layer.due);
  return layer.figures;
}

LayerFigures Layers::total() {
  LayerFigures sum{.timestamp = nowNanos()};
  std::lock_guard lock(mutex_);
  for (auto& [id, layer] : layers_) {
    if (!layer.wanted && !layer.resting) want(layer, layer.due);
    if (!layer.figures) continue;
    sum.bytes += layer.figures->bytes;
    sum.inodes += layer.figures->inodes;
    if (!layer.resting) sum.timestamp = std::min(sum.timestamp, layer.figures->timestamp);
  }
  return sum;
}

void Layers::run() {
  // In Linux a thread has its own.
  (void)::setpriority(PRIO_PROCESS, 0, pace_.nice);
  Lock lock(mutex_);
  credited_ = Clock::now();
  credit_ = pace_.burst;
  while (!stopping_) {
    collect();
    if (small_.empty() && large_.empty()) {
      rest(lock);
    } else if (mayWork(lock)) {
      work(lock, small_);
      work(lock, large_);
    }
  }
}

void Layers::collect() {
  auto now = Clock::now();
  for (auto& [id, layer] : layers_) {
    if (!layer.wanted || layer.busy || layer.due > now) continue;
    layer.busy = true;
    (layer.large ? large_ : small_).queue.push_back(id);
  }
}

// Without a time where nothing is wanted: then nothing wakes the thread.
void Layers::rest(Lock& lock) {
  wakes_ = Clock::time_point::max();
  for (const auto& [id, layer] : layers_)
    if (layer.wanted) wakes_ = std::min(wakes_, layer.due);
  if (wakes_ == Clock::time_point::max())
    changed_.wait(lock);
  else
    changed_.wait_until(lock, wakes_);
  wakes_ = Clock::time_point::min();
}

// Whether the share of processor time is not used up; else waits until there is some for several slices: the first
// after a rest is slow, as caches are cold.
bool Layers::mayWork(Lock& lock) {
  auto now = Clock::now();
  auto used = threadCpuTime();
  credit_ += std::chrono::duration_cast<std::chrono::nanoseconds>((now - credited_) * pace_.share);
  credit_ = std::min(credit_, pace_.burst) - (used - charged_);
  credited_ = now;
  charged_ = used;
  if (credit_.count() > 0) return true;
  changed_.wait_for(lock, (pace_.burst / 2 - credit_) / pace_.share, [this] { return stopping_.load(); });
  return false;
}

// For a slice.
void Layers::work(Lock& lock, Lane& lane) {
  auto end = threadCpuTime() + kSlice;
  for (auto now = threadCpuTime(); !lane.empty() && !stopping_ && now < end;) {
    std::string id = lane.scan ? lane.scan->id : lane.queue.front();
    if (!lane.scan) {
      lane.queue.pop_front();
      auto layer = layers_.find(id);
      if (layer == layers_.end()) continue;
      layer->second.wanted = false;
    }
    lock.unlock();
    if (!lane.scan) lane.scan = std::make_unique<Scan>(Scan{id, TreeScan(path_(id))});
    auto state = lane.scan->tree.step(end - now, [this] { return stopping_.load(); });
    auto after = threadCpuTime();
    lane.scan->used += after - now;
    now = after;
    lock.lock();
    note(lane, state);
  }
}

void Layers::note(Lane& lane, TreeScan::State state) {
  Scan& scan = *lane.scan;
  auto found = layers_.find(scan.id);
  if (found == layers_.end()) return lane.scan.reset();
  Layer& layer = found->second;
  layer.large = scan.used > kLarge;
  if (state == TreeScan::State::Going) {
    if (!layer.large || &lane == &large_) return;
    if (large_.empty())
      large_.scan = std::move(lane.scan);
    else
      large_.queue.push_back(scan.id);
    return lane.scan.reset();
  }
  publish(layer, scan.tree, state);
  layer.busy = false;
  layer.due = Clock::now() + pace_.again;
  lane.scan.reset();
}

// Of a tree that was moved about meanwhile, what is there at least: or a pod could keep its layer from being counted.
void Layers::publish(Layer& layer, const TreeScan& tree, TreeScan::State state) {
  LayerFigures figures{nowNanos(), tree.bytes(), tree.inodes()};
  if (state == TreeScan::State::Lost) {
    if (figures.inodes == 0) return;  // there is no such directory
    auto before = layer.figures.value_or(LayerFigures{});
    figures.bytes = std::max(figures.bytes, before.bytes);
    figures.inodes = std::max(figures.inodes, before.inodes);
  }
  layer.figures = figures;
}

}  // namespace userpod::stats

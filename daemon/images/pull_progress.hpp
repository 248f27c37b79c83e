// How far a pull is, told at most ten times a second and at each change of stage.
#pragma once

#include <algorithm>
#include <chrono>
#include <functional>
#include <vector>

#include "daemon/images/images.hpp"
#include "daemon/images/manifest.hpp"

namespace userpod::images {

// One thread.
class Progress {
 public:
  explicit Progress(const std::function<void(const PullProgress&)>& report) : report_(report) {}

  void stage(const char* name) {
    state_.stage = name;
    tell(true);
  }
  void add(const Descriptor& layer) {
    auto size = static_cast<std::uint64_t>(std::max<std::int64_t>(layer.size, 0));
    state_.layers.push_back({layer.digest, "waiting", 0, size});
    state_.total += size;
  }
  void begun(std::size_t layer) { state_.layers[layer].state = "downloading"; }
  void received(std::size_t layer, std::uint64_t bytes) {
    auto& item = state_.layers[layer];
    state_.done += bytes - item.done;
    item.done = bytes;
    tell(false);
  }
  void unpacked(std::size_t layer) {
    auto& item = state_.layers[layer];
    item.state = "unpacked";
    if (item.total > 0) {
      state_.done += item.total - item.done;
      item.done = item.total;
    }
    tell(true);
  }

 private:
  void tell(bool now) {
    using namespace std::chrono_literals;
    auto time = std::chrono::steady_clock::now();
    if (!report_ || (!now && time - last_ < 100ms)) return;
    last_ = time;
    report_(state_);
  }

  const std::function<void(const PullProgress&)>& report_;
  PullProgress state_;
  std::chrono::steady_clock::time_point last_;
};

}  // namespace userpod::images

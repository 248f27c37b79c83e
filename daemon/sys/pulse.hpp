// Whether everything still moves that clients may wait for: the watchdog is fed by it.
#pragma once

#include <atomic>
#include <functional>
#include <memory>
#include <string>
#include <vector>

namespace userpod {

// One thread; answers come from any.
class Pulse {
 public:
  using Ask = std::function<void(std::function<void()> answer)>;

  // A part that answers when it is alive, once for each time it is asked.
  void add(std::string name, Ask ask) { parts_.push_back({std::move(name), std::move(ask), {}}); }
  // Whether all parts have answered since they were last asked; then they are asked again. The first beat is good.
  bool beat();
  // Those that have not.
  std::string silent() const;

 private:
  struct Part {
    std::string name;
    Ask ask;
    std::shared_ptr<std::atomic<bool>> waiting;
  };
  std::vector<Part> parts_;
};

}  // namespace userpod

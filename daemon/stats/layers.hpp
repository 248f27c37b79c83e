// What containers have written, from scans in the background: a thread of low priority that takes about a hundredth of
// a processor while somebody asks, and sleeps while nobody does.
#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <unordered_map>

#include "daemon/stats/figures.hpp"
#include "daemon/stats/tree_scan.hpp"

namespace userpod::stats {

// Any thread.
class Layers {
 public:
  using Clock = std::chrono::steady_clock;
  using Path = std::function<std::string(const std::string& id)>;

  struct Pace {
    Clock::duration first = std::chrono::seconds(1);   // after a layer came, or its container ended
    Clock::duration again = std::chrono::seconds(10);  // after the last scan, if it was asked for since
    double share = 0.01;                               // of one processor
    std::chrono::nanoseconds burst =
        std::chrono::milliseconds(20);  // of processor time at once, after a rest; else half of it
    int nice = 19;
  };

  // `path` is called by the thread; an empty answer, or one that leads nowhere: there is no layer.
  explicit Layers(Path path) : Layers(std::move(path), Pace()) {}
  Layers(Path path, Pace pace);
  ~Layers();

  // A layer that is there. One that rests is scanned a last time. Repeating it is fine.
  void follow(const std::string& id, bool resting);
  void forget(const std::string& id);
  // As last scanned. Asks for a new scan, as total() does for all.
  std::optional<LayerFigures> of(const std::string& id);
  LayerFigures total();  // see Stats::layerTotal

 private:
  struct Layer {
    std::optional<LayerFigures> figures;
    bool resting = false;
    bool wanted = true;
    bool busy = false;   // in a queue, or being scanned
    bool large = false;  // the last scan took long
    Clock::time_point due;
  };
  struct Scan {
    std::string id;
    TreeScan tree;
    std::chrono::nanoseconds used{0};
  };
  struct Lane {
    std::deque<std::string> queue;  // ids
    std::unique_ptr<Scan> scan;     // the one under way

    bool empty() const { return queue.empty() && !scan; }
  };
  using Lock = std::unique_lock<std::mutex>;

  void want(Layer& layer, Clock::time_point due);
  void run();
  void collect();
  void rest(Lock& lock);
  bool mayWork(Lock& lock);
  void work(Lock& lock, Lane& lane);
  void note(Lane& lane, TreeScan::State state);
  static void publish(Layer& layer, const TreeScan& tree, TreeScan::State state);

  const Path path_;
  const Pace pace_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::unordered_map<std::string, Layer> layers_;  // guarded by mutex_
  Clock::time_point wakes_;                        // guarded by mutex_: when the thread will look by itself
  std::atomic<bool> stopping_ = false;             // set with mutex_ held

  // The thread's own. Large layers wait for each other, and no other waits for them.
  Lane small_, large_;
  std::chrono::nanoseconds charged_{0};  // of the thread's processor time
  std::chrono::nanoseconds credit_{0};
  Clock::time_point credited_;

  std::thread thread_;
};

}  // namespace userpod::stats

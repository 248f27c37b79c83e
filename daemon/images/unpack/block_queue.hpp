// Blocks of bytes from one thread to the next, a bounded number of them: the joints of the pull pipeline.
#pragma once

#include <condition_variable>
#include <cstddef>
#include <deque>
#include <memory>
#include <mutex>
#include <optional>
#include <string_view>
#include <utility>

namespace userpod::images {

struct Block {
  explicit Block(std::size_t room)
      : data(new char[room]), capacity(room) {}  // not cleared: it is written before it is read
  std::string_view view() const { return {data.get(), size}; }

  std::unique_ptr<char[]> data;
  std::size_t capacity = 0;
  std::size_t size = 0;
};

// One writer, one reader. close() by either side: the writer's push fails from then on and the reader gets what is
// still queued only after finish().
class BlockQueue {
 public:
  explicit BlockQueue(std::size_t most) : most_(most) {}

  // Waits for room. false: the reader is gone.
  bool push(Block block) {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [this] { return closed_ || blocks_.size() < most_; });
    if (closed_) return false;
    blocks_.push_back(std::move(block));
    changed_.notify_all();
    return true;
  }
  // The writer has written everything.
  void finish() {
    std::lock_guard lock(mutex_);
    finished_ = true;
    changed_.notify_all();
  }
  // nullopt: the end, or closed before it (see ended()).
  std::optional<Block> pop() {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [this] { return closed_ || finished_ || !blocks_.empty(); });
    if (closed_ || blocks_.empty()) return std::nullopt;
    Block block = std::move(blocks_.front());
    blocks_.pop_front();
    changed_.notify_all();
    return block;
  }
  // Either side gives up: both are woken.
  void close() {
    std::lock_guard lock(mutex_);
    closed_ = true;
    blocks_.clear();
    changed_.notify_all();
  }
  // Whether the last pop() met the writer's end, not a broken pipe.
  bool ended() {
    std::lock_guard lock(mutex_);
    return finished_ && !closed_;
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<Block> blocks_;
  std::size_t most_;
  bool finished_ = false;
  bool closed_ = false;
};

}  // namespace userpod::images

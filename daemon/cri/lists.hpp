// Lists and their streamed forms: the same selection, once whole and once in chunks.
#pragma once

#include <grpcpp/grpcpp.h>

#include <algorithm>
#include <functional>
#include <memory>
#include <utility>
#include <vector>

#include "daemon/cri/calls.hpp"
#include "daemon/cri/limits.hpp"

namespace userpod::cri {

// A chunk ends with the item that reaches either: it stays below 4 MiB, which clients take who have set no limit, as an
// item of usual checks has 2 MiB at most.
constexpr int kChunkItems = 1000;
constexpr std::size_t kChunkBytes = std::size_t{1024} * 1024;
// Figures are read for so many at a time, when the client has taken those before.
constexpr std::size_t kReadItems = 200;

template <typename Record>
using Records = std::vector<std::shared_ptr<const Record>>;

// Streams one message for each chunk of the items. Never an empty message: nothing selected is an end at once. Holds
// its items, so the list is the one of the call's moment however slow the client reads.
template <typename Item, typename Response>
class ListStream : public grpc::ServerWriteReactor<Response> {
 public:
  // Adds an item to a message and returns the bytes that it has there.
  using Add = std::function<std::size_t(const Item&, Response*)>;

  ListStream(std::vector<Item> items, Add add) : items_(std::move(items)), add_(std::move(add)) {}

  // Once, before gRPC gets it.
  ListStream* start() {
    next();
    return this;
  }
  void OnWriteDone(bool ok) override {
    if (ok)
      next();
    else
      this->Finish(grpc::Status::CANCELLED);
  }
  void OnDone() override { delete this; }

 protected:
  // When all items are sent.
  virtual void more() { this->Finish(grpc::Status::OK); }
  void send(std::vector<Item> items) {
    items_ = std::move(items);
    position_ = 0;
    next();
  }

 private:
  void next() {
    if (position_ == items_.size()) return more();
    response_.Clear();
    std::size_t bytes = 0;
    for (int count = 0; count < kChunkItems && bytes < kChunkBytes && position_ < items_.size(); ++count)
      bytes += add_(items_[position_++], &response_) + kItemOverhead;
    if (bytes <= kMaxMessage) return this->StartWrite(&response_);
    this->Finish(toGrpc(Error(Code::LimitsExceeded,
                              "one item of the list does not fit into a message of 16 MiB; its labels and annotations "
                              "are too large")));
  }

  static constexpr std::size_t kItemOverhead = 8;  // its tag and length
  std::vector<Item> items_;
  Add add_;
  std::size_t position_ = 0;
  Response response_;
};

// Alike, of items that are read for the records one chunk after the other.
template <typename Record, typename Item, typename Response>
class ReadStream final : public ListStream<Item, Response> {
 public:
  using Done = std::function<void(std::vector<Item>)>;
  // Calls `done` once, on any thread; not at all (it is dropped) is an end of the stream.
  using Read = std::function<void(Records<Record>, Done done)>;

  ReadStream(Records<Record> records, Read read, typename ListStream<Item, Response>::Add add)
      : ListStream<Item, Response>({}, std::move(add)), records_(std::move(records)), read_(std::move(read)) {}

 private:
  // The one answer of a read.
  class Turn {
   public:
    explicit Turn(ReadStream* stream) : stream_(stream) {}
    Turn(const Turn&) = delete;
    Turn& operator=(const Turn&) = delete;
    ~Turn() {
      if (stream_ != nullptr) stream_->Finish(toGrpc(stopping()));
    }
    void take(std::vector<Item> items) { std::exchange(stream_, nullptr)->send(std::move(items)); }

   private:
    ReadStream* stream_;
  };

  void more() override {
    if (position_ == records_.size()) return this->Finish(grpc::Status::OK);
    auto begin = records_.begin() + static_cast<std::ptrdiff_t>(position_);
    position_ = std::min(position_ + kReadItems, records_.size());
    Records<Record> batch(begin, records_.begin() + static_cast<std::ptrdiff_t>(position_));
    read_(std::move(batch),
          [turn = std::make_shared<Turn>(this)](std::vector<Item> items) { turn->take(std::move(items)); });
  }

  Records<Record> records_;
  Read read_;
  std::size_t position_ = 0;
};

template <typename Record, typename Wanted>
Records<Record> select(const Records<Record>& records, const Wanted& wanted) {
  Records<Record> selected;
  for (const auto& record : records)
    if (wanted(*record)) selected.push_back(record);
  return selected;
}

}  // namespace userpod::cri

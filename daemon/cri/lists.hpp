// Lists and their streamed forms: the same selection, once whole and once in chunks.
#pragma once

#include <grpcpp/grpcpp.h>

#include <functional>
#include <memory>
#include <vector>

namespace userpod::cri {

constexpr int kChunkItems = 1000;  // far below 16 MiB at some 2 KiB an item

// Streams one message for each chunk of the selected records. Never an empty message: nothing selected is an end at
// once. Holds its records, so the list is the one of the call's moment however slow the client reads.
template <typename Record, typename Response>
class ListStream final : public grpc::ServerWriteReactor<Response> {
 public:
  using Records = std::vector<std::shared_ptr<const Record>>;
  using Add = std::function<void(const Record&, Response*)>;

  ListStream(Records records, Add add) : records_(std::move(records)), add_(std::move(add)) { next(); }

  void OnWriteDone(bool ok) override {
    if (ok)
      next();
    else
      this->Finish(grpc::Status::CANCELLED);
  }
  void OnDone() override { delete this; }

 private:
  void next() {
    if (position_ == records_.size()) return this->Finish(grpc::Status::OK);
    response_.Clear();
    for (int count = 0; count < kChunkItems && position_ < records_.size(); ++count)
      add_(*records_[position_++], &response_);
    this->StartWrite(&response_);
  }

  Records records_;
  Add add_;
  std::size_t position_ = 0;
  Response response_;
};

template <typename Record, typename Wanted>
std::vector<std::shared_ptr<const Record>> select(const std::vector<std::shared_ptr<const Record>>& records,
                                                  const Wanted& wanted) {
  std::vector<std::shared_ptr<const Record>> selected;
  for (const auto& record : records)
    if (wanted(*record)) selected.push_back(record);
  return selected;
}

}  // namespace userpod::cri

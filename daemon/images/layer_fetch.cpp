#include "daemon/images/layer_fetch.hpp"

#include <fmt/core.h>

#include <algorithm>
#include <cstring>
#include <mutex>
#include <optional>
#include <thread>

#include "daemon/images/unpack/block_queue.hpp"
#include "daemon/images/unpack/decompress.hpp"
#include "daemon/images/digest.hpp"

namespace userpod::images {

namespace {

constexpr std::size_t kDownloadBlock = 256U << 10;
constexpr std::size_t kQueued = 8;  // blocks between two stages: 2 MB

// The three stages share it. The first failure is the cause; what it breaks in the other stages is not told.
class Pipeline {
 public:
  Pipeline(Registry& registry, const LayerSource& layer, UnpackBudget& budget, const std::stop_token& stop)
      : registry_(registry), descriptor_(layer.descriptor), diffId_(layer.diffId), budget_(budget), stop_(stop) {}

  void download(const std::function<void(std::size_t)>& received);
  void inflate();
  Result<Extracted> unpack(int directory);

 private:
  void fail(Error error) {
    {
      std::lock_guard lock(mutex_);
      if (!failure_) failure_ = std::move(error);
    }
    compressed_.close();
    tar_.close();
  }
  Status inflateAll();
  static Error broken() { return Error(Code::Canceled, "the pull was given up"); }
  Error named(Error error) const { return std::move(error).wrap("layer " + descriptor_.digest); }

  Registry& registry_;
  const Descriptor& descriptor_;
  const std::string& diffId_;
  UnpackBudget& budget_;
  std::stop_token stop_;
  BlockQueue compressed_{kQueued};
  BlockQueue tar_{kQueued};
  std::mutex mutex_;
  std::optional<Error> failure_;
};

void Pipeline::download(const std::function<void(std::size_t)>& received) {
  Sha256 sum;
  Block block(kDownloadBlock);
  auto status = registry_.blob(descriptor_, stop_, [&](std::string_view bytes) -> Status {
    sum.update(bytes);
    received(bytes.size());
    while (!bytes.empty()) {
      std::size_t part = std::min(bytes.size(), block.capacity - block.size);
      std::memcpy(block.data.get() + block.size, bytes.data(), part);
      block.size += part;
      bytes.remove_prefix(part);
      if (block.size == block.capacity && !compressed_.push(std::exchange(block, Block(kDownloadBlock))))
        return broken();
    }
    return {};
  });
  if (!status) return fail(std::move(status).error());
  if (auto digest = sum.digest(); digest != descriptor_.digest)
    return fail(Error(Code::DigestMismatch, fmt::format("the layer {} arrived as {}", descriptor_.digest, digest)));
  if (block.size > 0 && !compressed_.push(std::move(block))) return;
  compressed_.finish();
}

Status Pipeline::inflateAll() {
  Sha256 sum;
  std::int64_t compressed = 0;
  std::int64_t unpacked = 0;
  auto sink = [&](Block block) -> Status {
    sum.update(block.view());
    unpacked += static_cast<std::int64_t>(block.size);
    USERPOD_CHECK(budget_.checkRatio(compressed, unpacked));
    if (!tar_.push(std::move(block))) return broken();
    return {};
  };
  std::unique_ptr<Decompressor> decompressor;
  while (auto block = compressed_.pop()) {
    if (!decompressor) decompressor = makeDecompressor(block->view(), sink);
    compressed += static_cast<std::int64_t>(block->size);
    if (auto status = decompressor->feed(block->view()); !status) return named(std::move(status).error());
  }
  if (!compressed_.ended()) return broken();
  if (!decompressor) decompressor = makeDecompressor({}, sink);
  if (auto status = decompressor->finish(); !status) return named(std::move(status).error());
  if (auto digest = sum.digest(); digest != diffId_)
    return Error(Code::DigestMismatch, fmt::format("layer {} unpacks to {}, but the image's config says {}",
                                                   descriptor_.digest, digest, diffId_));
  return {};
}

void Pipeline::inflate() {
  if (auto status = inflateAll(); !status) return fail(std::move(status).error());
  tar_.finish();
}

Result<Extracted> Pipeline::unpack(int directory) {
  Block current(0);
  auto next = [&]() -> Result<std::string_view> {
    // All may have arrived: nobody else looks any more.
    if (stop_.stop_requested()) return broken();
    if (auto block = tar_.pop()) {
      current = std::move(*block);
      return current.view();
    }
    if (!tar_.ended()) return broken();
    return std::string_view();
  };
  auto extracted = extractTar(directory, next, budget_);
  if (!extracted) fail(named(extracted.error()));
  std::lock_guard lock(mutex_);
  if (failure_) return *failure_;
  return extracted;
}

}  // namespace

Result<Extracted> fetchLayer(Registry& registry, const LayerSource& layer, int directory, UnpackBudget& budget,
                             const std::stop_token& stop, const std::function<void(std::size_t)>& received) {
  Pipeline pipeline(registry, layer, budget, stop);
  std::jthread downloader([&] { pipeline.download(received); });
  std::jthread inflater([&] { pipeline.inflate(); });
  return pipeline.unpack(directory);
}

}  // namespace userpod::images

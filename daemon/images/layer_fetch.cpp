#include "daemon/images/layer_fetch.hpp"

#include <fmt/core.h>

#include <algorithm>
#include <cstring>
#include <mutex>
#include <optional>
#include <thread>

#include "daemon/images/block_queue.hpp"
#include "daemon/images/decompress.hpp"
#include "daemon/images/digest.hpp"

namespace userpod::images {

namespace {

constexpr std::size_t kDownloadBlock = 256U << 10;
constexpr std::size_t kQueued = 8;  // blocks between two stages: 2 MB

// The three stages share it. The first failure is the cause; what it breaks in the other stages is not told.
class Pipeline {
 public:
  Pipeline(Registry& registry, const Descriptor& descriptor, const std::string& diffId, const std::stop_token& stop)
      : registry_(registry), descriptor_(descriptor), diffId_(diffId), stop_(stop) {}

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

  Registry& registry_;
  const Descriptor& descriptor_;
  const std::string& diffId_;
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
      if (block.size == block.capacity && !compressed_.push(std::exchange(block, Block(kDownloadBlock)))) return broken();
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
  auto sink = [&](Block block) -> Status {
    sum.update(block.view());
    if (!tar_.push(std::move(block))) return broken();
    return {};
  };
  std::unique_ptr<Decompressor> decompressor;
  while (auto block = compressed_.pop()) {
    if (!decompressor) decompressor = makeDecompressor(block->view(), sink);
    if (auto status = decompressor->feed(block->view()); !status)
      return std::move(status).error().wrap("layer " + descriptor_.digest);
  }
  if (!compressed_.ended()) return broken();
  if (!decompressor) decompressor = makeDecompressor({}, sink);
  if (auto status = decompressor->finish(); !status) return std::move(status).error().wrap("layer " + descriptor_.digest);
  if (auto digest = sum.digest(); digest != diffId_)
    return Error(Code::DigestMismatch,
                 fmt::format("layer {} unpacks to {}, but the image's config says {}", descriptor_.digest, digest, diffId_));
  return {};
}

void Pipeline::inflate() {
  if (auto status = inflateAll(); !status) return fail(std::move(status).error());
  tar_.finish();
}

Result<Extracted> Pipeline::unpack(int directory) {
  Block current(0);
  auto extracted = extractTar(directory, [&]() -> Result<std::string_view> {
    auto next = tar_.pop();
    if (next) {
      current = std::move(*next);
      return current.view();
    }
    if (!tar_.ended()) return broken();
    return std::string_view();
  });
  if (!extracted) fail(extracted.error());
  std::lock_guard lock(mutex_);
  if (failure_) return *failure_;
  return extracted;
}

}  // namespace

Result<Extracted> fetchLayer(Registry& registry, const Descriptor& descriptor, const std::string& diffId, int directory,
                             const std::stop_token& stop, const std::function<void(std::size_t)>& received) {
  Pipeline pipeline(registry, descriptor, diffId, stop);
  std::jthread downloader([&] { pipeline.download(received); });
  std::jthread inflater([&] { pipeline.inflate(); });
  return pipeline.unpack(directory);
}

}  // namespace userpod::images

#include "daemon/images/unpack/layer_stream.hpp"

#include <fmt/core.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <mutex>
#include <optional>
#include <thread>

#include "daemon/images/digest.hpp"
#include "daemon/images/unpack/block_queue.hpp"
#include "daemon/images/unpack/decompress.hpp"
#include "daemon/sys/fd.hpp"

namespace userpod::images {

namespace {

constexpr std::size_t kReadBlock = 256U << 10;
constexpr std::size_t kQueued = 8;  // blocks between the two threads: 2 MB

// The first failure is the cause; what it breaks in the other stage is not told.
class Stream {
 public:
  Stream(int source, const UnpackOrder& order, UnpackBudget& budget)
      : source_(source), order_(order), budget_(budget) {}

  void inflate() {
    auto status = inflateAll();
    if (!status) return fail(std::move(status).error());
    blocks_.finish();
  }
  Result<Unpacked> unpack(int directory);

 private:
  void fail(Error error) {
    {
      std::lock_guard lock(mutex_);
      if (!failure_) failure_ = std::move(error);
    }
    blocks_.close();
    // The other thread may wait for bytes that come late or never.
    std::uint64_t one = 1;
    (void)!::write(failed_.get(), &one, sizeof one);
  }
  // false: the other half has failed.
  bool waitForBytes() const {
    pollfd entries[] = {{source_, POLLIN, 0}, {failed_.get(), POLLIN, 0}};
    while (::poll(entries, 2, -1) < 0 && errno == EINTR) continue;
    return entries[1].revents == 0;
  }
  Status inflateAll();
  Status pass(Block block);
  static Error broken() { return Error(Code::Canceled, "the other half gave up"); }

  const int source_;
  const UnpackOrder& order_;
  UnpackBudget& budget_;
  const UniqueFd failed_{::eventfd(0, EFD_CLOEXEC)};  // readable once anything has failed
  BlockQueue blocks_{kQueued};
  Sha256 sum_;
  std::int64_t compressed_ = 0;
  std::int64_t unpacked_ = 0;
  std::string diffId_;  // once all is inflated
  std::mutex mutex_;
  std::optional<Error> failure_;
};

Status Stream::pass(Block block) {
  if (order_.file.empty()) {
    sum_.update(block.view());
    unpacked_ += static_cast<std::int64_t>(block.size);
    USERPOD_CHECK(budget_.checkRatio(compressed_, unpacked_));
  }
  if (!blocks_.push(std::move(block))) return broken();
  return {};
}

Status Stream::inflateAll() {
  std::unique_ptr<Decompressor> decompressor;
  if (!order_.file.empty()) decompressor = makePlain([this](Block block) { return pass(std::move(block)); });
  std::unique_ptr<char[]> buffer(new char[kReadBlock]);
  std::size_t filled = 0;
  for (;;) {
    if (!waitForBytes()) return broken();
    ssize_t count = ::read(source_, buffer.get() + filled, kReadBlock - filled);
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) return sysError("read the layer's bytes");
    filled += static_cast<std::size_t>(count);
    // The kind is told by the first bytes, and they may come one by one.
    constexpr std::size_t kTelling = 4;
    if (count > 0 && !decompressor && filled < kTelling) continue;
    if (!decompressor)
      decompressor = makeDecompressor({buffer.get(), filled}, [this](Block block) { return pass(std::move(block)); });
    compressed_ += static_cast<std::int64_t>(filled);
    USERPOD_CHECK(budget_.checkCompressed(compressed_));
    USERPOD_CHECK(decompressor->feed({buffer.get(), filled}));
    filled = 0;
    if (count == 0) break;
  }
  USERPOD_CHECK(decompressor->finish());
  if (!order_.file.empty()) return {};
  diffId_ = sum_.digest();
  if (!order_.diffId.empty() && diffId_ != order_.diffId)
    return Error(Code::DigestMismatch,
                 fmt::format("it unpacks to {}, but the image's config says {}", diffId_, order_.diffId));
  return {};
}

Result<Unpacked> Stream::unpack(int directory) {
  Block current(0);
  TarSource next = [&]() -> Result<std::string_view> {
    if (auto block = blocks_.pop()) {
      current = std::move(*block);
      return current.view();
    }
    if (!blocks_.ended()) return broken();
    return std::string_view();
  };
  auto extracted = order_.file.empty() ? extractTar(directory, next, budget_, order_.options)
                                       : extractFile(directory, order_.file, next, budget_, order_.options);
  if (!extracted) fail(extracted.error());
  std::lock_guard lock(mutex_);
  if (failure_) return std::move(*failure_).wrap("layer " + order_.blob);
  return Unpacked{*extracted, diffId_};
}

}  // namespace

Result<Unpacked> unpackStream(int source, int directory, const UnpackOrder& order, UnpackCounters& counters) {
  UnpackBudget budget(order.limits, counters);
  Stream stream(source, order, budget);
  std::jthread inflater([&] { stream.inflate(); });
  auto unpacked = stream.unpack(directory);
  inflater.join();
  return unpacked;
}

}  // namespace userpod::images

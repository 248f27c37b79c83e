#include "daemon/images/unpack/unpack_budget.hpp"

#include <fmt/core.h>

namespace userpod::images {

namespace {

// A small layer of zeros does no harm, and test images are like that.
constexpr std::int64_t kSmall = 256LL << 20;

Error exceeds(const char* setting, std::int64_t limit, const char* what) {
  return {
      Code::LimitsExceeded,
      fmt::format("unpacks to more than {} {}; if the image is to be trusted, set {} in userpod.toml higher, or to 0",
                  limit, what, setting)};
}

// Neither counter may wrap: no more is taken than would fit.
bool take(std::atomic<std::int64_t>& taken, std::int64_t count, std::int64_t limit) {
  std::int64_t before = taken.load();
  do {
    if (count > INT64_MAX - before || (limit > 0 && before + count > limit)) return false;
  } while (!taken.compare_exchange_weak(before, before + count));
  return true;
}

}  // namespace

Status UnpackBudget::takeBytes(std::int64_t count) {
  if (take(taken_.bytes, count, limits_.bytes)) return {};
  return exceeds("image-size-limit", limits_.bytes > 0 ? limits_.bytes : INT64_MAX, "bytes");
}

Status UnpackBudget::takeEntries(std::int64_t count) {
  if (take(taken_.entries, count, limits_.entries)) return {};
  return exceeds("image-entries-limit", limits_.entries, "files, directories and links");
}

Status UnpackBudget::checkRatio(std::int64_t compressed, std::int64_t unpacked) const {
  if (limits_.ratio == 0 || unpacked <= kSmall || unpacked / limits_.ratio <= compressed) return {};
  return exceeds("image-ratio-limit", limits_.ratio, "times its compressed size");
}

Status UnpackBudget::checkCompressed(std::int64_t compressed) const {
  if (limits_.bytes == 0 || compressed <= limits_.bytes) return {};
  return exceeds("image-size-limit", limits_.bytes, "bytes, even compressed");
}

}  // namespace userpod::images

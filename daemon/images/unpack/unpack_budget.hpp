// How much one pull may unpack: against images that are made to fill a disk.
#pragma once

#include <atomic>
#include <cstdint>

#include "daemon/sys/error.hpp"

namespace userpod::images {

struct UnpackLimits {        // of one pull; 0: no limit
  std::int64_t bytes = 0;    // of file contents, holes counted
  std::int64_t entries = 0;  // files, directories, links
  std::int64_t ratio = 0;    // of a large layer to its compressed size
};

// What the layers of a pull have taken of it so far. In memory that the processes which unpack them share: all zero at
// the beginning.
struct UnpackCounters {
  std::atomic<std::int64_t> bytes{0};
  std::atomic<std::int64_t> entries{0};
};
static_assert(std::atomic<std::int64_t>::is_always_lock_free);

// Any thread. LimitsExceeded names the limit and its setting.
class UnpackBudget {
 public:
  UnpackBudget(const UnpackLimits& limits, UnpackCounters& taken) : limits_(limits), taken_(taken) {}

  Status takeBytes(std::int64_t count);
  Status takeEntries(std::int64_t count);
  // Of one stream: an honest file system compresses to a third or a tenth; zeros by the thousand.
  Status checkRatio(std::int64_t compressed, std::int64_t unpacked) const;
  // Also of one: bytes may come for ever and unpack to nothing.
  Status checkCompressed(std::int64_t compressed) const;

 private:
  const UnpackLimits limits_;
  UnpackCounters& taken_;
};

}  // namespace userpod::images

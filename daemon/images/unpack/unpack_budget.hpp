// How much one pull may unpack: against images that are made to fill a disk.
#pragma once

#include <atomic>
#include <cstdint>

#include "daemon/sys/error.hpp"
#include "policy/settings.hpp"

namespace userpod::images {

// Shared by the layers of a pull; any thread. LimitsExceeded names the limit and its setting.
class UnpackBudget {
 public:
  explicit UnpackBudget(const Settings& settings)
      : bytes_(settings.imageSizeLimit), entries_(settings.imageEntriesLimit), ratio_(settings.imageRatioLimit) {}

  Status takeBytes(std::int64_t count);    // of file contents, holes counted
  Status takeEntries(std::int64_t count);  // files, directories, links
  // Of one stream: an honest file system compresses to a third or a tenth; zeros by the thousand.
  Status checkRatio(std::int64_t compressed, std::int64_t unpacked) const;

 private:
  const std::int64_t bytes_;
  const std::int64_t entries_;
  const std::int64_t ratio_;
  std::atomic<std::int64_t> bytesTaken_{0};
  std::atomic<std::int64_t> entriesTaken_{0};
};

}  // namespace userpod::images

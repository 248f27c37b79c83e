// Layers and root file systems on disk: <data>/layers/<name>, <data>/containers/<id>/{upper,work,merged}.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "daemon/sys/error.hpp"
#include "policy/settings.hpp"

namespace userpod::storage {

struct FilesystemUsage {
  std::string mountpoint;
  std::int64_t timestamp = 0;  // nanoseconds since the epoch
  std::uint64_t usedBytes = 0;
  std::uint64_t inodesUsed = 0;
};

// Methods block and may be called from any worker thread, at once for different ids.
class Storage {
 public:
  // Probes native overlay with userxattr in the data directory; StorageFailed names what is missing and the mend.
  static Result<std::unique_ptr<Storage>> open(const Paths& paths);
  virtual ~Storage() = default;

  virtual std::string driver() const = 0;     // "overlay"
  virtual std::string root() const = 0;       // <data>
  // Mounts lower layers (directory names below <data>/layers, lowest first) with a fresh upper directory; returns the
  // path of the root file system. Also after a crash in the middle: what is there is removed first.
  virtual Result<std::string> mountContainer(const std::string& id, const std::vector<std::string>& layers) = 0;
  virtual Status unmountContainer(const std::string& id) = 0;  // keeps the upper directory; not mounted is fine
  virtual Status removeContainer(const std::string& id) = 0;   // unmounts and removes everything of it
  // Directories of containers that are not in the list: left by a crash. Returns their ids.
  virtual std::vector<std::string> containers() const = 0;
  virtual Result<FilesystemUsage> imageUsage() const = 0;      // by statfs and counters, never by walking
  virtual Result<FilesystemUsage> containerUsage() const = 0;
};

}  // namespace userpod::storage

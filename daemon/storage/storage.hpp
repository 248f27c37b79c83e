// Layers and root file systems on disk: <data>/layers/<name>, <data>/containers/<id>/{upper,work,merged}, of which a
// copy has the last only. Image volumes of a container: <data>/containers/<id>/volumes/<number>/, alike without work.
#pragma once

#include <memory>
#include <set>
#include <string>
#include <vector>

#include "daemon/sys/error.hpp"
#include "daemon/sys/fd.hpp"
#include "daemon/sys/finding.hpp"
#include "policy/settings.hpp"
#include "userns/node.hpp"

namespace userpod::storage {

struct FilesystemUsage {
  std::string mountpoint;
  std::int64_t timestamp = 0;  // nanoseconds since the epoch
  std::uint64_t usedBytes = 0;
  std::uint64_t inodesUsed = 0;
};

// Methods block and may be called from any worker thread, at once for different ids. An upper directory is mounted
// once, by the driver it was made for; what other drivers have made can be unmounted, removed and asked for all the
// same.
class Storage {
 public:
  // By settings.storageDriver. "auto" takes the first that works, by trying it in the data directory: "overlay"
  // (native, with userxattr), "fuse-overlayfs", "copy". One that is asked for by name and does not work is
  // StorageFailed, with what is missing and the mend. The node outlives it.
  static Result<std::unique_ptr<Storage>> open(const Paths& paths, const Settings& settings, const NodeInside& node);
  virtual ~Storage() = default;

  virtual std::string driver() const = 0;  // of new containers
  // Why it is none of the better ones; empty with native overlay and with a driver that was asked for by name.
  virtual std::string reason() const = 0;
  virtual std::string root() const = 0;           // <data>
  virtual std::string containerRoot() const = 0;  // <data>/containers
  // Makes a root file system of layers (directory names below <data>/layers, lowest first), in which a container may
  // write; returns its path. Also after a crash in the middle: what is there is removed first. All of it has the
  // SELinux label, if there is one: NotSupported with another driver than native overlay.
  virtual Result<std::string> mountContainer(const std::string& id, const std::vector<std::string>& layers,
                                             const std::string& label = {}) = 0;
  // pidfd of the process without which the root file system is gone: fuse-overlayfs's. None (an empty owner) with the
  // other drivers, and when nothing is mounted; StorageFailed when it has ended.
  virtual Result<UniqueFd> server(const std::string& id) const = 0;
  // An image volume: mounts layers, to be read only, for a container whose root file system is mounted, and returns the
  // path to bind: of the whole, or of the file or directory that subPath names in it, whose links never lead out of it.
  // The volume goes with the container: unmountContainer and removeContainer take all of them away.
  // InvalidArgument: there is no such file or directory. Of a failure the rest goes with the container too.
  virtual Result<std::string> mountVolume(const std::string& id, std::size_t number,
                                          const std::vector<std::string>& layers, const std::string& subPath) = 0;
  virtual Status unmountContainer(const std::string& id) = 0;  // keeps what the container wrote; not mounted is fine
  virtual Status removeContainer(const std::string& id) = 0;  // unmounts; what was written is removed in the background
  // Where what the container writes is kept: its upper directory, or with a copy all of its files.
  virtual std::string writableLayer(const std::string& id) const = 0;
  // Of all directories of containers, those that a crash has left too.
  virtual std::vector<std::string> containers() const = 0;
  // What is there and belongs to none of these containers, whatever made it. A tree on its way out is not reported.
  virtual Findings check(const std::set<std::string>& known) = 0;
  virtual Status mend(const Finding& finding) = 0;
  virtual Result<FilesystemUsage> imageUsage() const = 0;  // by statfs and counters, never by walking
};

}  // namespace userpod::storage

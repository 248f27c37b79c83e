// The places of the bare parts: made at the start, removed at the end, also those of a run that was killed.
#pragma once

#include <memory>
#include <string>

#include "policy/settings.hpp"
#include "userns/node.hpp"

namespace userpod::bench {

class Workspace {
 public:
  // Only one at a time: the caller holds a lock. What an earlier run left is removed first.
  static Result<std::unique_ptr<Workspace>> open(const Paths& paths, const NodeInside& node);
  ~Workspace();  // clear(), with a warning when it fails

  const std::string& live() const { return live_; }  // below the node's /run: a tmpfs, as the daemon's own live state
  const std::string& disk() const { return disk_; }  // beside the daemon's data, on the same file system
  // Kills the bare containers, unmounts, removes bridge, cgroups and directories.
  Status clear() const;

 private:
  Workspace(const Paths& paths, const NodeInside& node);

  const NodeInside& node_;
  const std::string live_;
  const std::string disk_;
};

}  // namespace userpod::bench

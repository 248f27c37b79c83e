// The node: one set of namespaces per user, made by userpod-node.service, joined by everything else.
// facts: user_namespaces(7), setns(2), pid_namespaces(7).
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <string>
#include <string_view>

#include "daemon/sys/error.hpp"
#include "daemon/sys/fd.hpp"
#include "policy/settings.hpp"

namespace userpod {

// What the holder writes to <runtime>/node/holder.json once the node is ready, and removes when it ends.
struct HolderState {
  pid_t pid = 0;                // of the node's PID 1, in the host's PID namespace
  std::uint64_t startTime = 0;  // field 22 of its /proc/PID/stat, to tell a recycled pid
  std::string instance;         // random; another value means that every container of the earlier one is gone
  std::string cgroup;           // of the unit, absolute below /sys/fs/cgroup, in the host's view
};

std::string holderStateText(const HolderState& state);  // JSON, as written
Result<HolderState> parseHolderState(std::string_view text);
// Field 22 of /proc/PID/stat, in clock ticks since boot; an error when there is no such process.
Result<std::uint64_t> processStartTime(pid_t pid);

// The node seen from the host's namespaces (userpodctl, the outer daemon).
class Node {
 public:
  // NotReady, with the command that starts it, when there is none; checks pid and start time.
  static Result<Node> find(const Paths& paths);

  const HolderState& state() const { return state_; }
  int pidfd() const { return pidfd_.get(); }
  // setns(pidfd, NEWUSER|NEWNS|NEWPID|NEWIPC|NEWUTS) in one call, from a single-threaded process. The caller is uid 0
  // inside afterwards, cwd and root are "/", and its *children* are in the PID namespace. `network` adds NEWNET.
  Status join(bool network) const;
  // Joins every namespace of the node, its cgroup namespace too: the caller must be in one of the node's cgroups.
  Status joinAll() const;

 private:
  HolderState state_;
  UniqueFd pidfd_;
};

// The node seen from a process that has joined it (the inner daemon). Descriptors stay valid while the node lives.
struct NodeInside {
  std::string instance;
  std::int64_t startedAt = 0;  // when the node was made, nanoseconds since the epoch
  UniqueFd networkNamespace;   // /proc/1/ns/net
  UniqueFd cgroupNamespace;    // /proc/1/ns/cgroup, for SpawnOptions::cgroupNamespace
  UniqueFd ipcNamespace;
  UniqueFd utsNamespace;
  UniqueFd pidNamespace;
  std::string cgroupRoot = "/sys/fs/cgroup";  // the node's own cgroup2 mount; its root is the unit's cgroup
  std::string hostCgroup;                     // the same one as the host sees it, absolute below its /sys/fs/cgroup
  std::string controllers;                    // that cgroups below it have: "cpu memory pids", may be empty

  static Result<NodeInside> open(const Paths& paths);
  // Makes the cgroup (every level) and returns an O_DIRECTORY descriptor for SpawnOptions::cgroup.
  // path is below the root, "/mon/<id>".
  Result<UniqueFd> makeCgroup(const std::string& path) const;
  // Gives it the files of the node's controllers, which each cgroup above it has to pass on. Repeating it is fine.
  Status enableControllers(const std::string& path) const;
  // Kills what is in it (cgroup.kill) and removes it with all its children. A missing one is fine.
  Status removeCgroup(const std::string& path) const;
};

}  // namespace userpod

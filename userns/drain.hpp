// The stop of the node: every container gets its stop signal and its grace, with or without a daemon.
#pragma once

#include <sys/types.h>

#include <chrono>
#include <cstdint>
#include <string>
#include <vector>

#include "userns/node.hpp"

namespace userpod {

// A running container's first process, as the live store records it.
struct StopTarget {
  std::string name;
  pid_t pid = 0;               // in the node's PID namespace
  std::uint64_t pidStart = 0;  // field 22 of its /proc/PID/stat
  int signal = 15;
  std::chrono::milliseconds grace{10000};
};

// Signals all at once, waits for each up to its grace, then kills it; prints what it does. Then waits a moment for the
// monitors to write the last of the logs. Single-threaded callers on the host only.
Status drainNode(const Node& node, const std::vector<StopTarget>& targets);

}  // namespace userpod

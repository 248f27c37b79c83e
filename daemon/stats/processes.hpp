// Of the processes in a container's cgroup, what /proc tells cheaply.
#pragma once

#include <string>
#include <string_view>

#include "daemon/stats/figures.hpp"

namespace userpod::stats {

// With those of its execs, which are in cgroups one below. `tasks` is pids.current, absent without its controller; then
// the threads are counted. Open descriptors are told of up to 64 processes, and by kernels that count them (6.2).
ProcessFigures readProcesses(const std::string& cgroup, std::int32_t firstPid, Figure tasks);

Figure parseSoftFileLimit(std::string_view text);  // of /proc/PID/limits; absent: unlimited

}  // namespace userpod::stats

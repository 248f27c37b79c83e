// Of the processes in a container's cgroup, what /proc tells cheaply.
#pragma once

#include <string>
#include <string_view>

#include "daemon/stats/figures.hpp"

namespace userpod::stats {

// With those of its execs, which are in cgroups one below: of a container that makes further ones below those, or has
// more than 64, nothing is told but its threads and its limit. `tasks` is pids.current, absent without its controller;
// then the threads are counted. Descriptors are told of up to 64 processes: those that are sockets while all are 4096
// at most, which an older kernel than 6.2 needs for the number of all too.
ProcessFigures readProcesses(const std::string& cgroup, std::int32_t firstPid, Figure tasks);

Figure parseSoftFileLimit(std::string_view text);  // of /proc/PID/limits; absent: unlimited

}  // namespace userpod::stats

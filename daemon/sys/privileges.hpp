// What a process gives up before it touches what others sent.
#pragma once

#include <cstdint>

#include "daemon/sys/error.hpp"

namespace userpod {

// Keeps the capabilities of this set (1 << CAP_...) of those it has and no others, for good: the process and its
// children gain none by exec either (no_new_privs). Of the calling thread and those it makes: before the first thread.
Status keepCapabilities(std::uint64_t set);

}  // namespace userpod

// What of a check needs no daemon.
#pragma once

#include "daemon/sys/finding.hpp"
#include "policy/settings.hpp"

namespace userpod::ctl {

// Blocks for some 100 ms: it starts programs for their versions.
Findings offlineFindings(const Paths& paths);
// Modes of the user's own directories, which can keep the daemon from starting.
void repairOffline(Findings& findings);

}  // namespace userpod::ctl

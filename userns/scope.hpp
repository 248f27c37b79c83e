// Moving a process into the user manager's part of the cgroup tree.
#pragma once

#include <sys/types.h>

#include <string>

#include "daemon/sys/error.hpp"

namespace userpod {

// Has the user's systemd make a transient scope around the process; it goes by itself once the process has left or
// ended. The way out of a login session's scope, from which a user may not move processes. Over the session bus, or
// systemd's own socket where there is no bus. Blocks up to ten seconds.
Status moveToUserScope(pid_t pid, const std::string& unitName, const std::string& description);

}  // namespace userpod

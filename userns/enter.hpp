// Running a command inside the node, as `userpodctl enter -- CMD` does.
#pragma once

#include <string>
#include <vector>

#include "policy/settings.hpp"

namespace userpod {

struct EnterOptions {
  std::vector<std::string> command;  // argv; argv[0] is searched in the node's PATH
};

// Runs the command in all of the node's namespaces, in a cgroup of its own (/enter/<random>), on the caller's terminal,
// with the caller's descriptors 0 to 2 and environment (USER, PATH and CONTAINER_RUNTIME_ENDPOINT set), and passes
// signals on. Returns its exit status (128 + signal when a signal ended it), 126 or 127 when it cannot be executed, or
// exitStatus() of an error, which is printed. The caller must be single-threaded and on the host; works from a login
// session, whose processes cannot enter the user manager's cgroups by themselves, through a transient scope.
int enterNode(const Paths& paths, const EnterOptions& options);

}  // namespace userpod

// The default seccomp profile, as the linux.seccomp object of an OCI specification.
// facts: syscalls(2), seccomp(2), runtime-spec config-linux.md.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

#include "daemon/sys/error.hpp"
#include "policy/capabilities.hpp"

namespace userpod::policy {

// Deny by default: what a program needs is allowed; what needs a capability only with it, else EPERM; what is known and
// refused is EPERM; what is unknown here (a newer kernel's calls) is ENOSYS, so that libraries fall back.
nlohmann::json defaultSeccomp(Capabilities capabilities);

// A profile of the user in the format of Docker and containers/common (includes, excludes and archMap applied) or plain
// OCI. InvalidArgument says what is wrong in it. The file is at most 1 MiB.
Result<nlohmann::json> loadSeccomp(const std::string& path, Capabilities capabilities);

// The profile as an array of struct sock_filter. Takes some 10 ms, then is remembered: an OCI runtime that is given the
// program does not compile it at each start. InvalidArgument says what in the profile libseccomp refuses. Any thread.
Result<std::string> compileSeccomp(const nlohmann::json& profile);

// Every system call that the default profile names.
std::vector<std::string> seccompNames();

}  // namespace userpod::policy

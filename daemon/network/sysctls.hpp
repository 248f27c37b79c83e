// Sysctls of a pod: only those that belong to its own namespaces.
#pragma once

#include <string>
#include <vector>

#include "daemon/store/model.hpp"
#include "daemon/sys/error.hpp"

namespace userpod::network {

struct Sysctl {
  std::string name;  // as the request wrote it
  std::string path;  // below /proc/sys
  std::string value;
};

// The sysctls to set in the pod's namespaces. One without a namespace of its own, a malformed name or value is
// InvalidArgument and named. One of a namespace that the pod shares with the node is left out with a warning, as CRI-O
// does: setting it would change every other pod.
Result<std::vector<Sysctl>> checkSysctls(const StringMap& sysctls, const NamespaceOptions& namespaces);

// Writes them in the namespaces of the calling thread. InvalidArgument for an unknown name or a refused value,
// NotSupported for what the kernel does not let a user namespace set.
Status applySysctls(const std::vector<Sysctl>& sysctls);

}  // namespace userpod::network

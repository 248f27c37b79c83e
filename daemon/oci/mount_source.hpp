// Where a requested mount comes from, on the node's side.
#pragma once

#include <string>

#include "daemon/sys/error.hpp"

namespace userpod::oci {

// The real path behind symbolic links. A missing one is made as a directory, as CRI-O and containerd do.
// InvalidArgument for a path that is not absolute or cannot be made.
Result<std::string> resolveSource(const std::string& path);

// Whether the source is the directory, lies in it, or contains it, by whatever path or bind mount it is reached.
bool overlapsPrivate(const std::string& source, const std::string& directory);

enum class Propagation { Private, Slave, Shared };
// Of the mount that the path is on, from /proc/self/mountinfo.
Result<Propagation> propagationOf(const std::string& path);

}  // namespace userpod::oci

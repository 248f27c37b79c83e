// The id maps of the node: which ids of the host stand behind the ids inside.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <string>
#include <vector>

#include "daemon/sys/error.hpp"

namespace userpod {

struct IdRange {
  std::uint64_t start = 0;
  std::uint64_t count = 0;
};

// One line of /proc/PID/uid_map.
struct IdMapping {
  std::uint64_t inside = 0;
  std::uint64_t outside = 0;
  std::uint64_t count = 0;
};

// Own id -> 0, then every subordinate range in the order given, from 1 up without gaps. The order is kept, as files on
// disk are owned by what it yields. Parts that come twice (two lines of /etc/subuid may overlap) are mapped once, or
// the kernel refuses the whole map; what exceeds the kernel's 340 lines or 32 bits is left out.
std::vector<IdMapping> composeIdMap(std::uint64_t ownId, const std::vector<IdRange>& ranges);

struct IdMaps {
  std::vector<IdMapping> users;
  std::vector<IdMapping> groups;
};

// Own ids and every subordinate range that libsubid finds (files, or the NSS module that nsswitch.conf names).
// SubIdMissing with the command that adds a range. Single-threaded callers only (libsubid keeps state).
Result<IdMaps> ownIdMaps();

// Writes both maps of a process that has just made its user namespace, through newuidmap and newgidmap.
Status writeIdMaps(pid_t pid, const IdMaps& maps);

// Why the kernel refuses a user namespace, as a sentence with the mend; `sysErrno` is what clone3 or unshare said.
Error userNamespaceError(int sysErrno);

}  // namespace userpod

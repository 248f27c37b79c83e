// Which files make up the registries' configuration, in the order in which they are read.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "daemon/images/registries/places.hpp"
#include "daemon/images/registries/registries_conf.hpp"

namespace userpod::images {

struct Source {
  std::string file;
  ConfKind kind = ConfKind::Registries;
};

struct Sources {
  std::vector<Source> files;
  // Changes when a file or directory that was looked at does: by device, inode, size and times of each.
  std::string signature;
  std::int64_t newest = 0;  // CLOCK_REALTIME, nanoseconds: the last change of any of them
};

// ConfigInvalid: a directory of drop-ins that cannot be read, or more than 256 drop-ins.
Result<Sources> findSources(const Places& places);

Result<std::shared_ptr<const Registries>> readSources(const Sources& sources);

}  // namespace userpod::images

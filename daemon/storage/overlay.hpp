// Mounting overlayfs inside a user namespace.
#pragma once

#include <string>
#include <vector>

#include "daemon/sys/error.hpp"

namespace userpod::storage {

struct OverlayMount {
  std::string layersDirectory;      // <data>/layers
  std::vector<std::string> layers;  // names in it, lowest first; a name may come again
  std::string upper;                // absolute; empty: read-only, without work directory
  std::string work;
  std::string target;
};

// With userxattr, and volatile when there is an upper directory. Descriptors through the new mount calls where the kernel
// takes them (6.13 and later), else one option string of short names, relative to the layers: it must fit a page.
Status mountOverlay(const OverlayMount& mount);

}  // namespace userpod::storage

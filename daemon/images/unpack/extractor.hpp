// Unpacks the tar of a layer into an empty directory.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>

#include "daemon/images/unpack/unpack_budget.hpp"
#include "daemon/sys/error.hpp"

namespace userpod::images {

// The next bytes of the tar, valid until the next call; empty: the end.
using TarSource = std::function<Result<std::string_view>()>;

struct Extracted {
  std::int64_t bytes = 0;  // of the files that are there in the end
  std::int64_t inodes = 0;
  std::int64_t squashed = 0;  // files whose owner was not kept
};

struct ExtractOptions {
  bool ignoreChownErrors = false;             // see LayerTree
  std::string place = "the place of images";  // where the disk is that may be full, for messages
};

// Reads the source to its end (what follows the archive too, for the digest's sake) and writes below `root`, an open
// directory, as uid 0 of a user namespace. Whiteouts become those of overlayfs (character device 0:0,
// user.overlay.opaque). Device nodes cannot be made without root and are left out.
// ImageInvalid for what no honest image has; LimitsExceeded when the budget is; NoSpace before the file system is full;
// SubIdMissing for owners that are not mapped; errors of the source as they are. The directory is then half filled: the
// caller removes it.
Result<Extracted> extractTar(int root, const TarSource& source, UnpackBudget& budget,
                             const ExtractOptions& options = {});
// The source as one file below `root`, and missing parents: a file of an OCI artifact. Errors alike.
Result<Extracted> extractFile(int root, std::string_view path, const TarSource& source, UnpackBudget& budget,
                              const ExtractOptions& options = {});

}  // namespace userpod::images

// The form of a layer's directory: written by the unpacker (images/layer_tree), read by every driver.
#pragma once

#include <sys/stat.h>
#include <sys/sysmacros.h>

#include <string_view>

namespace userpod::storage {

// What a layer hides of those below it, as overlayfs and fuse-overlayfs have it: a character device 0:0 of that name,
// and this mark on a directory.
inline constexpr const char* kOpaqueMark = "user.overlay.opaque";  // "y"
inline bool isWhiteout(const struct stat& info) {
  return S_ISCHR(info.st_mode) && info.st_rdev == makedev(0, 0);
}

// The same in names, where the file system takes no such device or mark (a data directory on an overlay, kernels before
// 5.8). Native overlay does not know them, nor can it be mounted there. No other file of a layer has this prefix.
inline constexpr std::string_view kHiddenPrefix = ".wh.";  // .wh.NAME, an empty file, never beside NAME
inline constexpr const char* kOpaqueFile = ".wh..wh..opq";

// On a layer's own directory whose archive has an entry for the root: then its mode and owner are meant.
inline constexpr const char* kRootMark = "user.userpod.root";

}  // namespace userpod::storage

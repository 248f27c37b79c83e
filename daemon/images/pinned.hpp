// Images that are kept: what `pinned-images` of userpod.toml means.
#pragma once

#include <string>
#include <vector>

#include "daemon/store/model.hpp"

namespace userpod::images {

// Whether one of the patterns fits the image, as pinned_images of crio.conf(5): its id, with or without "sha256:"; one
// of its names with tag or digest, as stored ("docker.io/library/nginx:1"); with "*" at the end, how one of them
// begins; with "*" at both ends, a part of one. Elsewhere "*" stands for itself, which no name has. Pure.
bool isPinned(const std::vector<std::string>& patterns, const ImageRecord& image);

}  // namespace userpod::images

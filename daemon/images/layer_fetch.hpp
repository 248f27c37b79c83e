// One layer from the registry into a directory: download, inflate, unpack, each in a thread of its own.
#pragma once

#include <functional>
#include <stop_token>
#include <string>

#include "daemon/images/unpack/extractor.hpp"
#include "daemon/images/client/registry.hpp"

namespace userpod::images {

struct LayerSource {
  Descriptor descriptor;
  std::string diffId;
};

// Fills `directory` (open, empty). Both digests are verified over the whole streams: the compressed bytes against
// the descriptor, the tar against the DiffID. `received` gets the number of each piece of compressed bytes, from the
// download thread. Blocks. Errors name the layer.
Result<Extracted> fetchLayer(Registry& registry, const LayerSource& layer, int directory, UnpackBudget& budget,
                             const std::stop_token& stop, const std::function<void(std::size_t)>& received);

}  // namespace userpod::images

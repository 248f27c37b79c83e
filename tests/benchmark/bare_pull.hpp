// The bare part of a pull: the layers' bytes from the registry onto the disk, and nothing of a store.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "daemon/sys/error.hpp"

namespace userpod::bench {

// An image of gzip layers in a registry that speaks plain HTTP and asks for no token.
struct BareImage {
  struct Layer {
    std::string url;
    std::string digest;      // of the compressed bytes
    std::string diffId;      // of the tar
    std::uint64_t size = 0;  // compressed
  };
  std::string manifestUrl;
  std::vector<Layer> layers;
};

// Reads manifest and config. reference: HOST:PORT/NAME:TAG.
Result<BareImage> describeImage(const std::string& reference);

// Asks for the manifest once more: what a pull of an image that is there cannot do without.
Status fetchManifest(const BareImage& image);

// All layers at once, two threads each: HTTP, SHA-256 and inflate in one, SHA-256 and untar in the other. Both digests
// are checked. Layers go to directory/0, directory/1, ..., which must be new.
Status barePull(const BareImage& image, const std::string& directory);

}  // namespace userpod::bench

// The JSON documents of an image: index or manifest list, manifest, config. Pure functions of untrusted bytes.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "daemon/store/model.hpp"
#include "daemon/sys/error.hpp"

namespace userpod::images {

constexpr std::size_t kLargestManifest = 4U << 20;
constexpr std::size_t kLargestConfig = 8U << 20;

struct Platform {
  std::string os;
  std::string architecture;  // Go's names: "amd64", "arm64", "arm"
  std::string variant;       // "v7", "v8" or empty
};
Platform hostPlatform();  // of uname(2)

struct Descriptor {
  std::string mediaType;
  std::string digest;     // "sha256:<hex>", checked
  std::int64_t size = 0;  // bytes, 0 or more
  std::optional<Platform> platform;
};

// Exactly one of the two is meant by a document: manifests for an index, config and layers for a manifest.
struct Manifest {
  bool isIndex = false;
  std::vector<Descriptor> manifests;  // at most 1000
  Descriptor config;
  std::vector<Descriptor> layers;  // lowest first, at most 500
  StringMap annotations;
};

// `contentType` is the server's, used only where the document does not say its own type. ImageInvalid; NotSupported for
// Docker schema 1, encrypted layers and artifacts, each by name.
Result<Manifest> parseManifest(std::string_view document, std::string_view contentType);

// The entry of an index to run here: own architecture, best variant. PlatformUnavailable lists what there is.
Result<Descriptor> choosePlatform(const Manifest& index, const Platform& host);

// Fills architecture, os, user, command... and diffIds of the record from the config document.
Status readConfig(std::string_view document, ImageRecord& record);

}  // namespace userpod::images

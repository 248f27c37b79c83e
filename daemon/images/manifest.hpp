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
  std::int64_t size = 0;  // bytes; -1: not told (Docker schema 1)
  std::optional<Platform> platform;
  std::string title;              // of an artifact's file: org.opencontainers.image.title
  std::vector<std::string> urls;  // where else a foreign layer is: at most 32, of at most 4 KiB each
};

// Which fields have a meaning depends on the kind: manifests of an index; config and layers of an image; layers and
// artifactType of an artifact; layers of Docker schema 1, whose config is made once the DiffIDs are known.
struct Manifest {
  enum class Kind { Index, Image, Artifact, Schema1 };
  Kind kind = Kind::Image;
  std::vector<Descriptor> manifests;  // at most 1000
  Descriptor config;
  std::vector<Descriptor> layers;  // lowest first, at most 500
  std::string artifactType;
  StringMap annotations;
};

// `contentType` is the server's, used only where the document does not say its own type. ImageInvalid; NotSupported for
// encrypted layers.
Result<Manifest> parseManifest(std::string_view document, std::string_view contentType);

// The entry of an index to run here: own architecture, best variant. PlatformUnavailable lists what there is.
Result<Descriptor> choosePlatform(const Manifest& index, const Platform& host);

// What of the bytes a registry serves is named by their digest, and nothing else may be read: of Docker schema 1 what
// is signed of it, else all.
std::string signedManifest(std::string document);

// The config of a Docker schema 1 image, as other tools convert it: what its newest layer says, with the DiffIDs of the
// layers, lowest first, and the history.
Result<std::string> schema1Config(std::string_view document, const std::vector<std::string>& diffIds);

// The name under which the layer pool keeps a file of an artifact: of its own kind, as the same bytes may be a layer.
std::string artifactLayer(const Descriptor& file);
// How the file is called where the artifact is mounted: its title, else its digest.
std::string artifactFile(const Descriptor& file);
// Fills what a record has instead of a config: artifact and diffIds.
void readArtifact(const Manifest& manifest, ImageRecord& record);

// Fills architecture, os, user, command... and diffIds of the record from the config document.
Status readConfig(std::string_view document, ImageRecord& record);

}  // namespace userpod::images

// userpod-seed-images COUNT: gives the user's userpod, which does not run and has no images yet, so many that share one
// layer. For the row Images of the benchmark: pulled, ten thousand would take minutes.
#include <fmt/core.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "daemon/images/digest.hpp"
#include "daemon/store/image_store.hpp"
#include "daemon/sys/fd.hpp"
#include "daemon/sys/util.hpp"
#include "policy/settings.hpp"

namespace userpod::bench {
namespace {

using nlohmann::json;

constexpr const char* kDirectory = "seed0001";  // of the layer
constexpr std::int64_t kLayerBytes = 1000;
constexpr unsigned kMost = 100'000;

// Documents as large as usual ones.
ImageRecord imageOf(unsigned number, const std::string& diffId) {
  ImageRecord image;
  json environment = json::array({"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"});
  json labels = json::object(), history = json::array();
  for (int i = 0; i < 8; ++i) {
    environment.push_back(fmt::format("VARIABLE_{}={}", i, number));
    labels[fmt::format("org.opencontainers.image.label{}", i)] = fmt::format("value {} of image {}", i, number);
    history.push_back({{"created", "2026-01-01T00:00:00Z"}, {"created_by", std::string(150, 'x')}});
  }
  image.config = json({{"architecture", "amd64"},
                       {"os", "linux"},
                       {"config", {{"Cmd", {"/bin/sh"}}, {"Env", environment}, {"Labels", labels}}},
                       {"history", history},
                       {"rootfs", {{"type", "layers"}, {"diff_ids", {diffId}}}}})
                     .dump();
  image.id = images::sha256Digest(image.config);
  image.manifest = json({{"schemaVersion", 2},
                         {"mediaType", "application/vnd.oci.image.manifest.v1+json"},
                         {"config",
                          {{"mediaType", "application/vnd.oci.image.config.v1+json"},
                           {"digest", image.id},
                           {"size", image.config.size()}}},
                         {"layers",
                          {{{"mediaType", "application/vnd.oci.image.layer.v1.tar+gzip"},
                            {"digest", diffId},
                            {"size", kLayerBytes}}}},
                         {"annotations", {{"org.opencontainers.image.version", std::to_string(number)}}}})
                       .dump();
  image.manifestDigest = images::sha256Digest(image.manifest);
  std::string name = fmt::format("registry.example/bench/image-{}", number);
  image.repoTags = {name + ":latest"};
  image.repoDigests = {name + "@" + image.manifestDigest};
  image.diffIds = {diffId};
  image.size = static_cast<std::int64_t>(image.config.size() + image.manifest.size()) + kLayerBytes;
  image.createdAt = nowNanos();
  return image;
}

// Beside the live state, in memory: there a commit costs nothing.
Status fill(const std::string& path, unsigned count) {
  USERPOD_TRY(store, store::ImageStore::open(path));
  std::string diffId = images::sha256Digest("the layer of all of them");
  USERPOD_CHECK(store->keepLayer({.diffId = diffId, .directory = kDirectory, .size = kLayerBytes, .inodes = 1}));
  for (unsigned number = 0; number < count; ++number) USERPOD_CHECK(store->commit(imageOf(number, diffId)));
  return {};
}

Status seed(unsigned count) {
  USERPOD_TRY(paths, userPaths());
  if (pathExists(paths.imageDatabase()))
    return Error(Code::InvalidState, paths.imageDatabase() + " is there already: userpodctl reset --yes");
  std::string directory = paths.runtime + "-seed", database = directory + "/images.db";
  USERPOD_CHECK(removeTree(directory));
  USERPOD_CHECK(makeDirectories(directory, 0700));
  USERPOD_CHECK(fill(database, count));
  USERPOD_CHECK(makeDirectories(paths.data + "/layers/" + kDirectory, 0755));
  std::error_code failed;
  for (const char* end : {"", "-wal"})
    if (pathExists(database + end)) std::filesystem::copy_file(database + end, paths.imageDatabase() + end, failed);
  if (failed) return Error(Code::StorageFailed, fmt::format("copy {}: {}", database, failed.message()));
  return removeTree(directory);
}

}  // namespace
}  // namespace userpod::bench

int main(int argc, char** argv) {
  unsigned long count = argc == 2 ? std::strtoul(argv[1], nullptr, 10) : 0;
  if (count == 0 || count > userpod::bench::kMost) {
    fmt::print(stderr, "userpod-seed-images COUNT: 1 to {} images\n", userpod::bench::kMost);
    return EXIT_FAILURE;
  }
  auto done = userpod::bench::seed(static_cast<unsigned>(count));
  if (done) return EXIT_SUCCESS;
  fmt::print(stderr, "userpod-seed-images: {}\n", done.error().text());
  return EXIT_FAILURE;
}

// Manifests and indexes: what parses keeps the limits, and what is chosen of an index is in it.
#include <algorithm>

#include "daemon/images/manifest.hpp"
#include "daemon/images/reference.hpp"
#include "daemon/sys/util.hpp"
#include "tests/fuzz/fuzz.hpp"

using namespace userpod;
using namespace userpod::images;
using fuzz::require;

namespace {

void check(const Descriptor& descriptor) {
  require(isSha256Digest(descriptor.digest), "a descriptor names a SHA-256 digest");
  require(descriptor.size >= 0, "a size is not negative");
  require(isUtf8(descriptor.mediaType), "a media type is UTF-8");
}

void checkSchema1(const Manifest& manifest, std::string_view document) {
  require(manifest.layers.size() <= 500, "an image has at most 500 layers");
  std::vector<std::string> diffIds;
  for (const auto& layer : manifest.layers) {
    require(isSha256Digest(layer.digest), "a layer has a digest");
    diffIds.push_back(layer.digest);
  }
  auto config = schema1Config(document, diffIds);
  require(static_cast<bool>(config), "what parses is converted");
  ImageRecord record;
  if (readConfig(*config, record)) require(record.diffIds == diffIds, "the config has the layers it was given");
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  auto text = fuzz::text(data, size);
  // The first line is the server's content type, the rest the document.
  auto line = std::min(text.find('\n'), text.size());
  auto manifest = parseManifest(text.substr(std::min(line + 1, text.size())), text.substr(0, line));
  if (!manifest) {
    auto code = manifest.error().code();
    require(code == Code::ImageInvalid || code == Code::NotSupported, "a manifest is invalid or not supported");
    require(manifest.error().text().size() < 1000 && isUtf8(manifest.error().text()), "the message is short and UTF-8");
    return 0;
  }
  for (const auto& [name, value] : manifest->annotations)
    require(isUtf8(name) && isUtf8(value), "annotations are UTF-8");
  auto document = text.substr(std::min(line + 1, text.size()));
  auto whole = signedManifest(std::string(document));
  require(signedManifest(whole).size() <= whole.size() + 4096, "what is signed is a part of it");
  if (manifest->kind == Manifest::Kind::Schema1) {
    checkSchema1(*manifest, document);
    return 0;
  }
  if (manifest->kind != Manifest::Kind::Index) {
    require(manifest->manifests.empty() && manifest->layers.size() <= 500,
            "an image has at most 500 layers, and no images");
    check(manifest->config);
    for (const auto& layer : manifest->layers) check(layer);
    return 0;
  }
  require(manifest->layers.empty() && manifest->manifests.size() <= 1000,
          "an index has at most 1000 images, and no layers");
  for (const auto& entry : manifest->manifests) check(entry);
  for (const Platform& host :
       {Platform{"linux", "amd64", ""}, Platform{"linux", "arm", "v7"}, Platform{"linux", "arm64", "v8"}}) {
    auto chosen = choosePlatform(*manifest, host);
    if (!chosen) {
      require(chosen.error().code() == Code::PlatformUnavailable, "no image for this platform");
      require(chosen.error().text().size() < 1000, "the message is short whatever the index is");
      continue;
    }
    require(std::any_of(manifest->manifests.begin(), manifest->manifests.end(),
                        [&](const Descriptor& entry) { return entry.digest == chosen->digest; }),
            "the chosen image is one of the index");
    require(
        !chosen->platform || (chosen->platform->os == host.os && chosen->platform->architecture == host.architecture),
        "the chosen image is for this platform");
  }
  return 0;
}

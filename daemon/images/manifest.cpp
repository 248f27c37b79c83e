#include "daemon/images/manifest.hpp"

#include <fmt/format.h>
#include <sys/utsname.h>

#include <nlohmann/json.hpp>

#include "daemon/images/invalid.hpp"
#include "daemon/images/json_document.hpp"
#include "daemon/images/reference.hpp"
#include "daemon/images/schema1.hpp"
#include "daemon/sys/util.hpp"

namespace userpod::images {

namespace {

using nlohmann::json;

constexpr std::size_t kMostManifests = 1000;
constexpr std::size_t kMostUrls = 32;  // of a foreign layer
constexpr std::size_t kLongestUrl = 4U << 10;
constexpr std::size_t kMostLayers = 500;                 // also the most that overlayfs stacks
constexpr std::size_t kLargestAnnotations = 256U << 10;  // as Kubernetes has it; all images' go into one list

Result<std::vector<std::string>> readUrls(const json& object) {
  std::vector<std::string> urls;
  auto found = object.find("urls");
  if (found == object.end() || !found->is_array()) return urls;
  if (found->size() > kMostUrls)
    return invalidImage(fmt::format("a descriptor of {} urls, more than {}", found->size(), kMostUrls));
  for (const auto& url : *found) {
    if (!url.is_string() || url.get_ref<const std::string&>().size() > kLongestUrl)
      return invalidImage("a descriptor with a url that is no text or too long");
    urls.push_back(url.get<std::string>());
  }
  return urls;
}

Result<Descriptor> readDescriptor(const json& object, std::string_view what) {
  if (!object.is_object()) return invalidImage(fmt::format("{}: not a descriptor", what));
  Descriptor descriptor{.mediaType = textOf(object, "mediaType"), .digest = textOf(object, "digest")};
  if (!isSha256Digest(descriptor.digest))
    return invalidImage(fmt::format("{}: digest \"{}\" is not sha256", what, excerpt(descriptor.digest)));
  auto size = object.find("size");
  if (size == object.end() || !size->is_number_unsigned() || size->get<std::uint64_t>() > (1ULL << 50))
    return invalidImage(fmt::format("{} {}: no sensible size", what, descriptor.digest));
  descriptor.size = static_cast<std::int64_t>(size->get<std::uint64_t>());
  if (auto platform = object.find("platform"); platform != object.end() && platform->is_object())
    descriptor.platform =
        Platform{textOf(*platform, "os"), textOf(*platform, "architecture"), textOf(*platform, "variant")};
  if (auto annotations = object.find("annotations"); annotations != object.end() && annotations->is_object())
    descriptor.title = textOf(*annotations, "org.opencontainers.image.title");
  constexpr std::size_t kLongestTitle = 4096;
  if (descriptor.title.size() > kLongestTitle)
    return invalidImage(fmt::format("{} {}: a title of {} bytes", what, descriptor.digest, descriptor.title.size()));
  USERPOD_TRY(urls, readUrls(object));
  descriptor.urls = std::move(urls);
  return descriptor;
}

Result<std::vector<Descriptor>> readDescriptors(const json& list, std::size_t most, std::string_view what) {
  if (!list.is_array()) return invalidImage(fmt::format("{}s: not a list", what));
  if (list.size() > most) return invalidImage(fmt::format("{} {}s, more than {}", list.size(), what, most));
  std::vector<Descriptor> found;
  for (const auto& object : list) {
    USERPOD_TRY(descriptor, readDescriptor(object, what));
    found.push_back(std::move(descriptor));
  }
  return found;
}

bool contains(std::string_view text, std::string_view part) {
  return text.find(part) != std::string_view::npos;
}

bool isImageConfig(std::string_view type) {
  return type.empty() || contains(type, "container.image") || contains(type, "image.config");
}

Status checkLayers(const Manifest& manifest) {
  for (const auto& layer : manifest.layers)
    if (contains(layer.mediaType, "+encrypted"))
      return Error(Code::NotSupported, fmt::format("layer {} is encrypted, which is not supported", layer.digest));
  if (manifest.kind == Manifest::Kind::Artifact && manifest.layers.empty())
    return invalidImage(fmt::format("an artifact of type {} without files", excerpt(manifest.artifactType, 200)));
  return {};
}

}  // namespace

Platform hostPlatform() {
  utsname name{};
  ::uname(&name);
  std::string machine = name.machine;
  if (machine == "x86_64") return {"linux", "amd64", ""};
  if (machine == "aarch64") return {"linux", "arm64", "v8"};
  if (machine.starts_with("armv7") || machine == "armv8l") return {"linux", "arm", "v7"};
  if (machine.starts_with("armv6")) return {"linux", "arm", "v6"};
  if (machine == "i686" || machine == "i586" || machine == "i386") return {"linux", "386", ""};
  if (machine == "loongarch64") return {"linux", "loong64", ""};
  return {"linux", machine, ""};  // riscv64, ppc64le, s390x are named alike
}

Result<Manifest> parseManifest(std::string_view document, std::string_view contentType) {
  USERPOD_TRY(object, parseObject(document, "manifest"));
  std::string type = textOf(object, "mediaType");
  if (type.empty()) type = trim(contentType.substr(0, contentType.find(';')));
  auto version = object.find("schemaVersion");
  if (contains(type, "distribution.manifest.v1") || (version != object.end() && *version == 1)) {
    return parseSchema1(object);
  }
  bool hasManifests = object.contains("manifests");
  bool hasLayers = object.contains("layers") || object.contains("config");
  // A document that can be read both ways would mean one thing to us and another to who signed it.
  if (hasManifests == hasLayers) return invalidImage("manifest: neither clearly an index nor clearly an image");
  Manifest manifest;
  if (hasManifests) manifest.kind = Manifest::Kind::Index;
  bool saysIndex = contains(type, "image.index") || contains(type, "manifest.list");
  bool saysImage = contains(type, "image.manifest.v1") || contains(type, "distribution.manifest.v2");
  if ((saysIndex && !hasManifests) || (saysImage && hasManifests))
    return invalidImage(fmt::format("manifest: its type {} does not fit its content", excerpt(type, 200)));
  manifest.annotations = mapOf(object, "annotations");
  std::size_t bytes = 0;
  for (const auto& [name, value] : manifest.annotations) bytes += name.size() + value.size();
  if (bytes > kLargestAnnotations)
    return invalidImage(fmt::format("manifest: {} bytes of annotations, more than {}", bytes, kLargestAnnotations));
  if (hasManifests) {
    USERPOD_TRY(manifests, readDescriptors(object["manifests"], kMostManifests, "manifest"));
    manifest.manifests = std::move(manifests);
    return manifest;
  }
  USERPOD_TRY(config, readDescriptor(object["config"], "image config"));
  manifest.config = std::move(config);
  USERPOD_TRY(layers, readDescriptors(object["layers"], kMostLayers, "layer"));
  manifest.layers = std::move(layers);
  manifest.artifactType = textOf(object, "artifactType");
  if (!isImageConfig(manifest.config.mediaType)) {
    manifest.kind = Manifest::Kind::Artifact;
    if (manifest.artifactType.empty()) manifest.artifactType = manifest.config.mediaType;
  }
  USERPOD_CHECK(checkLayers(manifest));
  if (manifest.config.size > static_cast<std::int64_t>(kLargestConfig))
    return invalidImage(fmt::format("image config of {} bytes, more than {}", manifest.config.size, kLargestConfig));
  return manifest;
}

Result<Descriptor> choosePlatform(const Manifest& index, const Platform& host) {
  const Descriptor* best = nullptr;
  int bestScore = -1;
  std::string others;
  for (const auto& entry : index.manifests) {
    if (!entry.platform) continue;
    const Platform& platform = *entry.platform;
    if (platform.os != "unknown" && others.size() < 500)
      others += fmt::format("{}{}/{}{}{}", others.empty() ? "" : ", ", excerpt(platform.os, 30),
                            excerpt(platform.architecture, 30), platform.variant.empty() ? "" : "/",
                            excerpt(platform.variant, 30));
    if (platform.os != host.os || platform.architecture != host.architecture) continue;
    int score = 0;
    if (platform.variant == host.variant)
      score = 100;
    else if (platform.variant.empty())
      score = 50;
    else if (platform.variant.size() == 2 && platform.variant < host.variant)
      score = platform.variant[1] - '0';  // an older variant runs on a newer processor, never the other way
    else
      continue;
    if (score > bestScore) {
      bestScore = score;
      best = &entry;
    }
  }
  if (best != nullptr) return *best;
  // An index of a single image needs no platform.
  if (index.manifests.size() == 1 && !index.manifests[0].platform) return index.manifests[0];
  return Error(Code::PlatformUnavailable,
               fmt::format("no image for {}/{}{}{} in the list; there are: {}", host.os, host.architecture,
                           host.variant.empty() ? "" : "/", host.variant, others.empty() ? "none" : others));
}

std::string signedManifest(std::string document) {
  auto payload = schema1Payload(document);
  return payload ? *std::move(payload) : std::move(document);
}

std::string artifactFile(const Descriptor& file) {
  return file.title.empty() ? file.digest : file.title;
}

std::string artifactLayer(const Descriptor& file) {
  return fmt::format("file:{}:{}", file.digest, artifactFile(file));
}

void readArtifact(const Manifest& manifest, ImageRecord& record) {
  record.artifact = true;
  record.diffIds.clear();
  for (const auto& file : manifest.layers) record.diffIds.push_back(artifactLayer(file));
}

Status readConfig(std::string_view document, ImageRecord& record) {
  USERPOD_TRY(object, parseObject(document, "image config"));
  record.architecture = textOf(object, "architecture");
  record.os = textOf(object, "os");
  record.variant = textOf(object, "variant");
  auto rootfs = object.find("rootfs");
  if (rootfs == object.end() || !rootfs->is_object()) return invalidImage("image config: no rootfs");
  USERPOD_TRY(diffIds, listOf(*rootfs, "diff_ids"));
  for (const auto& id : diffIds)
    if (!isSha256Digest(id)) return invalidImage(fmt::format("image config: DiffID \"{}\" is not sha256", excerpt(id)));
  record.diffIds = std::move(diffIds);
  auto found = object.find("config");
  if (found == object.end() || !found->is_object()) return {};
  const json& config = *found;
  record.user = textOf(config, "User");
  record.workingDirectory = textOf(config, "WorkingDir");
  record.stopSignal = textOf(config, "StopSignal");
  USERPOD_TRY(entrypoint, listOf(config, "Entrypoint"));
  record.entrypoint = std::move(entrypoint);
  USERPOD_TRY(command, listOf(config, "Cmd"));
  record.command = std::move(command);
  USERPOD_TRY(environment, listOf(config, "Env"));
  record.environment = std::move(environment);
  record.labels = mapOf(config, "Labels");
  record.volumes.clear();
  if (auto volumes = config.find("Volumes"); volumes != config.end() && volumes->is_object())
    for (const auto& [path, unused] : volumes->items()) record.volumes.push_back(path);
  return {};
}

}  // namespace userpod::images

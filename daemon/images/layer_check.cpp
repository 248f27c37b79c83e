#include "daemon/images/layer_check.hpp"

#include <dirent.h>
#include <fmt/format.h>
#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <filesystem>
#include <memory>
#include <utility>

#include "daemon/images/digest.hpp"
#include "daemon/images/layer_pool.hpp"
#include "daemon/images/manifest.hpp"
#include "daemon/storage/layer_format.hpp"
#include "daemon/sys/fd.hpp"
#include "daemon/sys/trash.hpp"

namespace userpod::images {
namespace {

using Severity = Finding::Severity;
constexpr const char* kTemporaryPrefix = ".tmp-";

std::string imagesText(const std::vector<std::string>& images) {
  if (images.empty()) return "no image has it";
  constexpr std::size_t kShown = 3;
  auto shown = std::min(images.size(), kShown);
  return fmt::format("it belongs to {}{}", fmt::join(images.begin(), images.begin() + static_cast<long>(shown), ", "),
                     images.size() > shown ? fmt::format(" and {} more", images.size() - shown) : "");
}

std::string refetchMend(const std::vector<std::string>& images) {
  return images.empty() ? "userpodctl check --repair" : "remove the image and pull it again: userpodctl rmi, pull";
}

const std::vector<std::string>& usersOf(const LayersSeen& seen, const std::string& diffId) {
  static const std::vector<std::string> kNone;
  auto found = seen.users.find(diffId);
  return found == seen.users.end() ? kNone : found->second;
}

void compareKnown(const LayersSeen& seen, Findings& found) {
  for (const auto& [diffId, layer] : seen.known) {
    std::string path = seen.root + "/" + layer.directory;
    const auto& users = usersOf(seen, diffId);
    if (!seen.directories.contains(layer.directory))
      found.push_back(
          {"layer-missing", Severity::Error, "layer", diffId,
           fmt::format("{} is {}; {}", path, seen.others.contains(layer.directory) ? "no directory" : "not there",
                       imagesText(users)),
           refetchMend(users), true});
    if (!seen.recorded.contains(diffId))
      found.push_back({"layer-not-recorded", Severity::Error, "layer", diffId,
                       "images.db does not have it any more; " + imagesText(users),
                       "systemctl --user restart userpod.service, then pull again", false});
  }
  for (const auto& diffId : seen.recorded)
    if (!seen.known.contains(diffId))
      found.push_back({"layer-not-loaded", Severity::Warning, "layer", diffId,
                       "images.db has it, the daemon does not know it: the file was changed by somebody else",
                       "systemctl --user restart userpod.service", false});
}

}  // namespace

Findings compareLayers(const LayersSeen& seen) {
  Findings found;
  compareKnown(seen, found);
  std::set<std::string> named;
  for (const auto& [diffId, layer] : seen.known) named.insert(layer.directory);
  auto all = seen.directories;
  all.insert(seen.others.begin(), seen.others.end());
  for (const auto& name : all) {
    if (named.contains(name) || seen.underWay.contains(name) || seen.inUse.contains(name)) continue;
    std::string path = seen.root + "/" + name;
    if (name.starts_with(Trash::kPrefix))
      found.push_back({"layer-trash-left", Severity::Warning, "file", path,
                       "thrown away, and could not be removed: see the journal", "userpodctl check --repair", true});
    else if (name.starts_with(kTemporaryPrefix))
      found.push_back({"layer-half-made", Severity::Warning, "file", path, "what is left of a layer that was unpacked",
                       "userpodctl check --repair", true});
    else
      found.push_back({"layer-unknown", Severity::Warning, "file", path, "images.db has no such layer",
                       "userpodctl check --repair", true});
  }
  return found;
}

namespace {

struct CloseDirectory {
  void operator()(DIR* open) const { ::closedir(open); }
};

using Inodes = std::set<std::pair<dev_t, ino_t>>;

// Levels as directories that are open: a layer is as deep as its paths are long, which the unpacker bounds.
Status countInto(int directory, TreeCount& count, Inodes& links, const std::stop_token& stop) {
  std::vector<std::unique_ptr<DIR, CloseDirectory>> open;
  auto enter = [&](UniqueFd fd) -> Status {
    DIR* opened = ::fdopendir(fd.get());
    if (opened == nullptr) return sysError("read a directory of the layer");
    (void)fd.release();
    open.emplace_back(opened);
    return {};
  };
  USERPOD_TRY(top, openAt(directory, ".", O_RDONLY | O_DIRECTORY));
  USERPOD_CHECK(enter(std::move(top)));
  while (!open.empty()) {
    if (stop.stop_requested()) return Error(Code::Canceled, "the check was canceled");
    const dirent* entry = ::readdir(open.back().get());
    if (entry == nullptr) {
      open.pop_back();
      continue;
    }
    std::string name = entry->d_name;
    // Not an entry of the layer: see layer_format.hpp.
    if (name == "." || name == ".." || name == storage::kOpaqueFile) continue;
    int parent = ::dirfd(open.back().get());
    struct stat info{};
    if (::fstatat(parent, name.c_str(), &info, AT_SYMLINK_NOFOLLOW) < 0) return sysError("stat " + name);
    if (info.st_nlink > 1 && !S_ISDIR(info.st_mode) && !links.emplace(info.st_dev, info.st_ino).second) continue;
    ++count.inodes;
    if (S_ISREG(info.st_mode)) count.bytes += info.st_size;
    if (!S_ISDIR(info.st_mode)) continue;
    USERPOD_TRY(below, openAt(parent, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW));
    USERPOD_CHECK(enter(std::move(below)));
  }
  return {};
}

}  // namespace

Result<TreeCount> countTree(const std::string& path, const std::stop_token& stop) {
  USERPOD_TRY(directory, openFile(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW));
  TreeCount count;
  Inodes links;
  auto counted = countInto(directory.get(), count, links, stop);
  if (!counted) return std::move(counted).error().wrap("count " + path);
  return count;
}

Findings compareCount(const LayerRecord& layer, const TreeCount& count, const std::vector<std::string>& users) {
  if (count.bytes == layer.size && count.inodes == layer.inodes) return {};
  return {{"layer-changed", Severity::Error, "layer", layer.diffId,
           fmt::format("it holds {} files with {} bytes; when it was unpacked there were {} with {}: it was changed "
                       "since; {}",
                       count.inodes, count.bytes, layer.inodes, layer.size, imagesText(users)),
           refetchMend(users), true}};
}

Findings checkDocuments(const ImageRecord& image) {
  auto damaged = [&](std::string text) -> Findings {
    return {{"image-document-damaged", Severity::Error, "image", image.id, std::move(text),
             "remove the image and pull it again: userpodctl rmi, pull", true}};
  };
  if (sha256Digest(image.manifest) != image.manifestDigest)
    return damaged("its manifest in images.db is not the one that was pulled: its digest is not " +
                   image.manifestDigest);
  auto manifest = parseManifest(image.manifest, {});
  if (manifest && manifest->kind == Manifest::Kind::Artifact) return {};
  if (sha256Digest(image.config) != image.id)
    return damaged("its config in images.db is not the one that was pulled: its digest is another");
  ImageRecord read;
  if (auto parsed = readConfig(image.config, read); !parsed)
    return damaged("its config in images.db cannot be read: " + parsed.error().text());
  return {};
}

// ---- the pool's own part

Result<Findings> LayerPool::check(const Users& users) {
  LayersSeen seen;
  seen.root = root_;
  seen.users = users;
  std::lock_guard lock(mutex_);
  seen.known = layers_;
  seen.underWay = workspaces_;
  seen.inUse = inUse_;
  seen.underWay.merge(trash_.pending());
  USERPOD_TRY(recorded, store_->loadLayers());
  for (const auto& layer : recorded) seen.recorded.insert(layer.diffId);
  std::error_code error;
  for (std::filesystem::directory_iterator entry(root_, error), end; !error && entry != end; entry.increment(error)) {
    std::error_code unknown;
    bool directory = entry->symlink_status(unknown).type() == std::filesystem::file_type::directory;
    (directory ? seen.directories : seen.others).insert(entry->path().filename());
  }
  if (error) return sysError("read directory " + root_, error.value());
  return compareLayers(seen);
}

Result<Findings> LayerPool::countLayers(const Users& users, const std::stop_token& stop,
                                        const std::function<void(std::size_t, std::size_t)>& counted) {
  std::vector<LayerRecord> layers;
  {
    std::lock_guard lock(mutex_);
    USERPOD_TRY(comparable, store_->countedLayers());
    for (const auto& [diffId, layer] : layers_)
      if (comparable.contains(diffId)) layers.push_back(layer);
  }
  Findings found;
  for (std::size_t done = 0; done < layers.size(); ++done) {
    const auto& layer = layers[done];
    counted(done, layers.size());
    auto count = countTree(root_ + "/" + layer.directory, stop);
    if (stop.stop_requested()) return Error(Code::Canceled, "the check was canceled");
    std::lock_guard lock(mutex_);
    // Removed meanwhile; what was not there before is told by check().
    auto now = layers_.find(layer.diffId);
    if (!count || now == layers_.end() || now->second.directory != layer.directory) continue;
    auto images = users.find(layer.diffId);
    for (auto& one : compareCount(layer, *count, images == users.end() ? std::vector<std::string>() : images->second))
      found.push_back(std::move(one));
  }
  counted(layers.size(), layers.size());
  return found;
}

Result<std::vector<std::string>> LayerPool::imageIds() {
  std::lock_guard lock(mutex_);
  return store_->imageIds();
}

bool LayerPool::isKnown(const std::string& name) const {
  return workspaces_.contains(name) || inUse_.contains(name) ||
         std::any_of(layers_.begin(), layers_.end(), [&](const auto& entry) { return entry.second.directory == name; });
}

Status LayerPool::discardUnknown(const std::string& name) {
  if (name.empty() || name == "." || name == ".." || name.find('/') != std::string::npos)
    return Error(Code::InvalidArgument, "not a name in " + root_);
  std::lock_guard lock(mutex_);
  if (isKnown(name)) return Error(Code::Busy, "a pull has it now");
  if (!name.starts_with(Trash::kPrefix)) return trash_.discard(name);
  if (!trash_.pending().contains(name)) trash_.retry(name);
  return {};
}

Status LayerPool::dropLayer(const std::string& diffId) {
  std::lock_guard lock(mutex_);
  auto known = layers_.find(diffId);
  if (known == layers_.end()) return {};
  if (isLeased(known->second)) return Error(Code::Busy, "a pull uses it now");
  if (inUse_.contains(known->second.directory)) return Error(Code::Busy, "a container uses it");
  std::string directory = known->second.directory;
  USERPOD_CHECK(store_->removeLayer(diffId));
  layers_.erase(known);
  return trash_.discard(directory);
}

}  // namespace userpod::images

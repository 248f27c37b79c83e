#include "daemon/images/layer_pool.hpp"

#include <dirent.h>
#include <fmt/core.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <iterator>

#include "daemon/images/manifest.hpp"
#include "daemon/images/reference.hpp"
#include "daemon/sys/log.hpp"
#include "daemon/sys/stage.hpp"
#include "daemon/sys/util.hpp"

namespace userpod::images {

namespace {

constexpr const char* kTemporary = ".tmp-";
constexpr std::int64_t kUnusedFor = 24LL * 3600 * 1'000'000'000;  // nanoseconds

Error lost(const std::string& layer) {
  return Error(Code::StorageFailed,
               fmt::format("layer {} could not be written to disk: see the log, and pull again", layer));
}

std::string bootId() {
  auto id = readFile("/proc/sys/kernel/random/boot_id");
  // Without it no layer is believed that is not on disk for sure.
  return id ? std::string(trim(*id)) : randomHex(16);
}

Result<std::vector<std::string>> entriesOf(const std::string& directory) {
  struct Closer {
    void operator()(DIR* open) const { ::closedir(open); }
  };
  std::unique_ptr<DIR, Closer> open(::opendir(directory.c_str()));
  if (!open) return sysError("read directory " + directory);
  std::vector<std::string> names;
  while (const dirent* entry = ::readdir(open.get())) {
    std::string name = entry->d_name;
    if (name != "." && name != "..") names.push_back(std::move(name));
  }
  return names;
}

}  // namespace

LayerPool::LayerPool(std::string root, UniqueFd fd, std::unique_ptr<store::ImageStore> store,
                     std::set<std::string> inUse)
    : root_(std::move(root)),
      rootFd_(std::move(fd)),
      boot_(bootId()),
      inUse_(std::move(inUse)),
      store_(std::move(store)),
      trash_(root_) {}

LayerPool::~LayerPool() = default;

Result<std::unique_ptr<LayerPool>> LayerPool::open(const Paths& paths, std::set<std::string> inUse) {
  std::string root = paths.data + "/layers";
  USERPOD_CHECK(makeDirectories(paths.data, 0700));
  USERPOD_CHECK(makeDirectories(root, 0711));
  USERPOD_TRY(fd, openFile(root, O_RDONLY | O_DIRECTORY));
  USERPOD_TRY(store, store::ImageStore::open(paths.imageDatabase()));
  std::unique_ptr<LayerPool> pool(new LayerPool(root, std::move(fd), std::move(store), std::move(inUse)));
  USERPOD_CHECK(pool->load());
  return pool;
}

Status LayerPool::load() {
  USERPOD_TRY(names, entriesOf(root_));
  std::set<std::string> present(names.begin(), names.end());
  std::lock_guard lock(mutex_);
  USERPOD_CHECK(loadLayers(present));
  USERPOD_CHECK(loadImages());
  for (const auto& name : present) {
    if (inUse_.contains(name))
      logWarning("layer {}/{} is in no image, but a container uses it: it is kept", root_, name);
    else if (!name.starts_with(Trash::kPrefix))
      discard(name);
  }
  collect();
  return {};
}

// Takes what it finds off `present`.
Status LayerPool::loadLayers(std::set<std::string>& present) {
  USERPOD_TRY(layers, store_->loadLayers());
  for (auto& layer : layers) {
    if (!layer.boot.empty() && layer.boot != boot_) continue;  // of a pull that the machine's end cut short
    if (present.erase(layer.directory) > 0) {
      layers_.emplace(layer.diffId, layer);
      continue;
    }
    logWarning("layer {} has no directory {}/{}: the images that need it are forgotten", layer.diffId, root_,
               layer.directory);
  }
  return {};
}

Status LayerPool::loadImages() {
  std::vector<std::string> incomplete;
  USERPOD_CHECK(store_->loadImages([&](ImageRecord image) -> Status {
    auto manifest = parseManifest(image.manifest, {});
    Status read = {};
    if (manifest && manifest->kind == Manifest::Kind::Artifact)
      readArtifact(*manifest, image);
    else
      read = readConfig(image.config, image);
    bool whole = read && std::all_of(image.diffIds.begin(), image.diffIds.end(),
                                     [this](const std::string& id) { return layers_.contains(id); });
    if (!whole) {
      logWarning("image {} is incomplete and forgotten: pull it again", ofImage(image.id));
      incomplete.push_back(image.id);
      return {};
    }
    if (manifest) image.manifestAnnotations = std::move(manifest->annotations);
    image.manifest = image.config = {};
    loaded_.push_back(std::move(image));
    return {};
  }));
  for (const auto& id : incomplete) USERPOD_CHECK(store_->removeImage(id));
  USERPOD_TRY(layers, store_->loadLayers());
  for (const auto& layer : layers)
    if (!layers_.contains(layer.diffId)) USERPOD_CHECK(store_->removeLayer(layer.diffId));
  return {};
}

std::string LayerPool::layerOf(const std::string& blob) {
  std::lock_guard lock(mutex_);
  auto found = std::find_if(layers_.begin(), layers_.end(), [&](const auto& entry) {
    return entry.second.blob == blob && isSha256Digest(entry.first);
  });
  return found == layers_.end() ? std::string() : found->first;
}

Result<LayerPool::Lease> LayerPool::lease(const std::set<std::string>& diffIds, const std::stop_token& stop) {
  std::unique_lock lock(mutex_);
  auto isMissing = [&](const std::string& id) { return !layers_.contains(id); };
  auto isFree = [&] {
    return std::none_of(diffIds.begin(), diffIds.end(),
                        [&](const std::string& id) { return isMissing(id) && fetching_.contains(id); });
  };
  if (!changed_.wait(lock, stop, isFree))
    return Error(Code::Canceled, "canceled while another pull fetches a shared layer");
  std::set<std::string> missing;
  std::copy_if(diffIds.begin(), diffIds.end(), std::inserter(missing, missing.end()), isMissing);
  fetching_.insert(missing.begin(), missing.end());
  for (const auto& id : diffIds) ++leased_[id];
  return Lease(this, diffIds, std::move(missing));
}

LayerPool::Lease::~Lease() {
  if (pool_ != nullptr) pool_->release(*this);
}

void LayerPool::Lease::forget() {
  std::lock_guard lock(pool_->mutex_);
  for (const auto& name : missing_) {
    constexpr std::string_view kBlob = "blob:";
    bool isBlob = name.starts_with(kBlob);
    auto expired = pool_->store_->expireLayer(isBlob ? "" : name, isBlob ? name.substr(kBlob.size()) : "");
    if (!expired) logError("{}", expired.error());
  }
}

void LayerPool::release(const Lease& lease) {
  std::lock_guard lock(mutex_);
  for (const auto& id : lease.missing_) fetching_.erase(id);
  for (const auto& id : lease.all_)
    if (auto found = leased_.find(id); --found->second == 0) leased_.erase(found);
  collect();
  changed_.notify_all();
}

// By its name or, before that was known, by its blob's.
bool LayerPool::isLeased(const LayerRecord& layer) const {
  return leased_.contains(layer.diffId) || leased_.contains(blobLease(layer.blob));
}

std::int64_t LayerPool::collect(bool all) {
  auto unreferenced = store_->unreferencedLayers();
  if (!unreferenced) {
    logError("{}", unreferenced.error());
    return 0;
  }
  std::int64_t bytes = 0;
  std::int64_t now = nowNanos();
  for (const auto& layer : *unreferenced) {
    if (isLeased(layer) || inUse_.contains(layer.directory)) continue;
    // A clock that was set back makes none of them eternal.
    bool wanted = layer.unusedSince != 0 && layer.unusedSince <= now && now - layer.unusedSince < kUnusedFor;
    if (wanted && !all) continue;
    if (auto removed = store_->removeLayer(layer.diffId); !removed) {
      logError("{}", removed.error());
      continue;
    }
    bytes += layer.size;
    layers_.erase(layer.diffId);
    discard(layer.directory);
  }
  return bytes;
}

std::int64_t LayerPool::dropUnfinished() {
  std::lock_guard lock(mutex_);
  return collect(true);
}

Result<ImageRecord> LayerPool::documents(const std::string& id) {
  std::lock_guard lock(mutex_);
  return store_->documents(id);
}

void LayerPool::discard(const std::string& name) {
  if (auto discarded = trash_.discard(name); !discarded) logError("{}", discarded.error());
}

LayerPool::Workspace::~Workspace() {
  if (pool_ != nullptr) pool_->endWorkspace(name_);
}

void LayerPool::endWorkspace(const std::string& name) {
  discard(name);
  std::lock_guard lock(mutex_);
  workspaces_.erase(name);
}

Result<LayerPool::Workspace> LayerPool::makeWorkspace() {
  std::string name = kTemporary + randomHex(8);
  {
    std::lock_guard lock(mutex_);
    workspaces_.insert(name);
  }
  // Mode whatever the umask is: it shows through as the root of a container whose layers have no entry for it.
  if (::mkdirat(rootFd_.get(), name.c_str(), 0755) < 0) {
    auto failure = sysError(fmt::format("make directory {}/{}", root_, name));
    endWorkspace(name);
    return failure;
  }
  auto fd = openAt(rootFd_.get(), name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW);
  if (!fd) {
    endWorkspace(name);
    return std::move(fd).error();
  }
  if (::fchmod(fd->get(), 0755) < 0) {
    auto failure = sysError(fmt::format("set the mode of {}/{}", root_, name));
    endWorkspace(name);
    return failure;
  }
  return Workspace(this, std::move(name), std::move(*fd));
}

// Short names: an overlay of a hundred layers has to fit its options in a page on kernels before 6.5.
Status LayerPool::settle(FreshLayer& layer) {
  for (int tries = 0;; ++tries) {
    std::string name = randomHex(4);
    std::lock_guard lock(mutex_);
    if (::renameat2(rootFd_.get(), layer.workspace.name_.c_str(), rootFd_.get(), name.c_str(), RENAME_NOREPLACE) == 0) {
      workspaces_.erase(layer.workspace.name_);
      workspaces_.insert(name);
      layer.workspace.name_ = name;
      return {};
    }
    if (errno != EEXIST || tries == 100) return sysError(fmt::format("rename {}/{}", root_, layer.workspace.name_));
  }
}

Status LayerPool::keep(FreshLayer layer) {
  USERPOD_CHECK(settle(layer));
  reachStage("pull.settled", layer.diffId);
  LayerRecord record{.diffId = layer.diffId,
                     .directory = layer.workspace.name_,
                     .size = layer.extracted.bytes,
                     .inodes = layer.extracted.inodes,
                     .blob = layer.blob,
                     .unusedSince = nowNanos(),
                     .boot = boot_};
  {
    std::lock_guard lock(mutex_);
    // Two blobs may become the same layer. The second directory goes with its workspace.
    if (layers_.contains(record.diffId)) return {};
    USERPOD_CHECK(store_->keepLayer(record));
    workspaces_.erase(record.directory);
    layers_.emplace(record.diffId, std::move(record));
    layer.workspace.pool_ = nullptr;
    changed_.notify_all();
  }
  reachStage("pull.kept", layer.diffId);
  return {};
}

Status LayerPool::writeOut() {
  // The kernel tells each failure once: nobody may take the next answer for good before the layers are gone.
  std::lock_guard oneAtATime(writingOut_);
  if (::syncfs(rootFd_.get()) == 0) return {};
  auto error = sysError("write layers to disk");
  std::lock_guard lock(mutex_);
  for (auto entry = layers_.begin(); entry != layers_.end();) {
    const auto& layer = entry->second;
    if (layer.boot.empty()) {
      ++entry;
      continue;
    }
    if (auto removed = store_->removeLayer(layer.diffId); !removed) logError("{}", removed.error());
    discard(layer.directory);
    entry = layers_.erase(entry);
  }
  return error;
}

Status LayerPool::commit(ImageRecord& image) {
  bool fresh = false;
  {
    std::lock_guard lock(mutex_);
    image.size = static_cast<std::int64_t>(image.config.size() + image.manifest.size());
    for (const auto& id : image.diffIds) {
      auto known = layers_.find(id);
      if (known == layers_.end()) return lost(id);
      image.size += known->second.size;
      fresh = fresh || !known->second.boot.empty();
    }
  }
  if (fresh) USERPOD_CHECK(writeOut());
  reachStage("pull.synced", image.id);
  std::lock_guard lock(mutex_);
  // Another pull may have met the failure.
  for (const auto& id : image.diffIds)
    if (!layers_.contains(id)) return lost(id);
  USERPOD_CHECK(store_->commit(image));
  for (const auto& id : image.diffIds) {
    auto& layer = layers_.at(id);
    layer.unusedSince = 0;
    layer.boot.clear();
  }
  reachStage("pull.committed", image.id);
  return {};
}

Status LayerPool::removeImage(const std::string& id) {
  std::lock_guard lock(mutex_);
  USERPOD_CHECK(store_->removeImage(id));
  reachStage("image.forgotten", id);
  collect();
  reachStage("image.removed", id);
  return {};
}

Result<std::vector<std::string>> LayerPool::directories(const std::vector<std::string>& diffIds) {
  std::lock_guard lock(mutex_);
  std::vector<std::string> names;
  for (const auto& id : diffIds) {
    auto found = layers_.find(id);
    if (found == layers_.end())
      return Error(Code::NoSuchImage, fmt::format("layer {} is gone: pull the image again", id));
    names.push_back(found->second.directory);
  }
  return names;
}

std::int64_t LayerPool::layerSize(const std::string& diffId) {
  std::lock_guard lock(mutex_);
  auto found = layers_.find(diffId);
  return found == layers_.end() ? 0 : found->second.size;
}

std::uint64_t LayerPool::freeBytes() const {
  struct statvfs info{};
  if (::fstatvfs(rootFd_.get(), &info) < 0) return UINT64_MAX;
  return std::uint64_t{info.f_bavail} * info.f_frsize;
}

}  // namespace userpod::images

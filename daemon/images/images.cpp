#include "daemon/images/images.hpp"

#include <algorithm>
#include <map>
#include <mutex>
#include <unordered_map>
#include <unordered_set>

#include "daemon/images/layer_check.hpp"
#include "daemon/images/pinned.hpp"
#include "daemon/images/puller.hpp"
#include "daemon/sys/util.hpp"

namespace userpod::images {

namespace {

using ImagePointer = std::shared_ptr<const ImageRecord>;

// Stored images by id and by name. Any thread; nothing here waits for disk or network.
class Index {
 public:
  explicit Index(std::vector<std::string> pins) : pins_(std::move(pins)) {}

  void pin(std::vector<std::string> pins) {
    std::lock_guard lock(mutex_);
    pins_ = std::move(pins);
    for (auto& [id, image] : byId_) {
      if (image->pinned == isPinned(pins_, *image)) continue;
      ImageRecord changed = *image;
      changed.pinned = !changed.pinned;
      image = std::make_shared<const ImageRecord>(std::move(changed));
    }
  }

  // The names of the record are taken from whatever image had them.
  void put(ImageRecord image) {
    std::lock_guard lock(mutex_);
    for (const auto* names : {&image.repoTags, &image.repoDigests})
      for (const auto& name : *names) {
        auto& holder = byName_[name];
        if (!holder.empty() && holder != image.id) dropName(holder, name);
        holder = image.id;
      }
    store(std::move(image));
  }
  void erase(const std::string& id) {
    std::lock_guard lock(mutex_);
    byId_.erase(id);
    std::erase_if(byName_, [&](const auto& entry) { return entry.second == id; });
  }
  ImagePointer id(const std::string& id) const {
    std::lock_guard lock(mutex_);
    auto found = byId_.find(id);
    return found == byId_.end() ? nullptr : found->second;
  }
  ImagePointer name(const std::string& name) const {
    std::lock_guard lock(mutex_);
    auto found = byName_.find(name);
    return found == byName_.end() ? nullptr : byId_.at(found->second);
  }
  // nullptr also when several begin so.
  ImagePointer prefix(const std::string& hex) const {
    std::string start = "sha256:" + hex;
    std::lock_guard lock(mutex_);
    auto found = byId_.lower_bound(start);
    if (found == byId_.end() || !found->first.starts_with(start)) return nullptr;
    auto next = std::next(found);
    return next != byId_.end() && next->first.starts_with(start) ? nullptr : found->second;
  }
  std::vector<ImagePointer> all() const {
    std::lock_guard lock(mutex_);
    std::vector<ImagePointer> images;
    for (const auto& [id, image] : byId_) images.push_back(image);
    return images;
  }

 private:
  void dropName(const std::string& holder, const std::string& name) {
    auto found = byId_.find(holder);
    if (found == byId_.end()) return;
    ImageRecord changed = *found->second;
    std::erase(changed.repoTags, name);
    std::erase(changed.repoDigests, name);
    store(std::move(changed));
  }
  // Pins go by names: whether an image is pinned follows from those it has now.
  void store(ImageRecord image) {
    image.pinned = isPinned(pins_, image);
    std::string id = image.id;
    byId_[id] = std::make_shared<const ImageRecord>(std::move(image));
  }

  mutable std::mutex mutex_;
  std::vector<std::string> pins_;  // guarded by mutex_, as the rest
  std::map<std::string, ImagePointer> byId_;
  std::unordered_map<std::string, std::string> byName_;
};

void addNames(std::vector<std::string>& names, const std::vector<std::string>& more) {
  for (const auto& name : more)
    if (std::find(names.begin(), names.end(), name) == names.end()) names.push_back(name);
}

class ImagesImpl : public Images {
 public:
  ImagesImpl(std::unique_ptr<LayerPool> pool, LiveSettings settings, PullPrograms programs)
      : settings_(std::move(settings)),
        programs_(std::move(programs)),
        pool_(std::move(pool)),
        index_(settings_.current()->pinnedImages) {
    for (auto& image : pool_->takeLoaded()) index_.put(std::move(image));
  }

  Result<ImageRecord> pull(const PullRequest& request) override {
    auto settings = settings_.current();
    PullContext context{.settings = *settings,
                        .programs = programs_,
                        .pool = *pool_,
                        .registries = registries_,
                        .known = [this](const std::string& id) { return index_.id(id); },
                        .commit = [this](ImageRecord image) { return commit(std::move(image)); }};
    return pullImage(context, request);
  }

  ImagePointer find(const std::string& reference) const override {
    constexpr std::size_t kShortestPrefix = 3;
    if (isSha256Digest(reference)) return index_.id(reference);
    if (reference.size() >= kShortestPrefix && reference.size() <= 64 && isHex(reference))
      if (auto image = index_.prefix(reference)) return image;
    auto parsed = parseReference(reference);
    if (!parsed) return nullptr;
    // An image that is here is found whatever has happened to registries.conf since.
    static const auto defaults = *loadRegistries({.etc = "", .vendor = ""});
    auto registries = registries_.current();
    for (const auto& name : (registries ? *registries : defaults)->names(*parsed))
      if (auto image = index_.name(name.digest.empty() ? name.tagged() : name.digested(name.digest))) return image;
    return nullptr;
  }

  std::vector<ImagePointer> list() const override { return index_.all(); }

  Status remove(const std::string& id) override {
    std::lock_guard lock(commitMutex_);
    USERPOD_CHECK(pool_->removeImage(id));
    index_.erase(id);
    return {};
  }

  void renewPins() override { index_.pin(settings_.current()->pinnedImages); }

  Result<ImageRecord> documents(const std::string& id) const override { return pool_->documents(id); }

  std::int64_t dropUnfinished() override { return pool_->dropUnfinished(); }

  std::int64_t freedBy(const std::vector<std::string>& ids) const override {
    std::unordered_set<std::string> going(ids.begin(), ids.end());
    std::unordered_set<std::string_view> staying, counted;
    auto all = index_.all();
    for (const auto& image : all)
      if (!going.contains(image->id)) staying.insert(image->diffIds.begin(), image->diffIds.end());
    std::int64_t bytes = 0;
    for (const auto& image : all) {
      if (!going.contains(image->id)) continue;
      bytes += image->size;  // layers, as often as it has them, and documents
      for (const auto& layer : image->diffIds)
        if (staying.contains(layer) || !counted.insert(layer).second) bytes -= pool_->layerSize(layer);
    }
    return bytes;
  }

  Result<std::vector<std::string>> layers(const std::string& id) const override {
    auto image = index_.id(id);
    if (!image) return Error(Code::NoSuchImage, "there is no image " + id);
    return pool_->directories(image->diffIds);
  }

  Result<Findings> check() override {
    // Committed or removed meanwhile, an image would be in one list alone.
    std::lock_guard lock(commitMutex_);
    return pool_->check(users());
  }

  Result<Findings> checkDeeply(const std::stop_token& stop,
                               const std::function<void(std::size_t, std::size_t)>& counted) override {
    Findings found;
    USERPOD_TRY(ids, pool_->imageIds());
    for (const auto& id : ids) {
      if (stop.stop_requested()) return Error(Code::Canceled, "the check was canceled");
      auto image = pool_->documents(id);
      // Removed meanwhile.
      if (!image && image.error().code() == Code::NoSuchImage) continue;
      if (!image) return std::move(image).error();
      for (auto& one : checkDocuments(*image)) found.push_back(std::move(one));
    }
    USERPOD_TRY(changed, pool_->countLayers(users(), stop, counted));
    found.insert(found.end(), changed.begin(), changed.end());
    return found;
  }

  std::map<std::string, std::vector<std::string>> imagesByLayer() const override { return users(); }

  Status mend(const Finding& finding) override {
    if (finding.kind == "layer") return pool_->dropLayer(finding.id);
    return pool_->discardUnknown(finding.id.substr(finding.id.rfind('/') + 1));
  }

 private:
  LayerPool::Users users() const {
    LayerPool::Users users;
    for (const auto& image : index_.all())
      for (const auto& layer : std::set<std::string>(image->diffIds.begin(), image->diffIds.end()))
        users[layer].push_back(image->id);
    return users;
  }
  Result<ImageRecord> commit(ImageRecord image) {
    std::lock_guard lock(commitMutex_);
    if (auto known = index_.id(image.id)) {
      addNames(image.repoTags, known->repoTags);
      addNames(image.repoDigests, known->repoDigests);
      image.createdAt = known->createdAt;
    }
    USERPOD_CHECK(pool_->commit(image));
    image.manifest = image.config = {};
    std::string id = image.id;
    index_.put(std::move(image));
    return *index_.id(id);
  }

  const LiveSettings settings_;
  const PullPrograms programs_;
  std::unique_ptr<LayerPool> pool_;
  mutable RegistriesFiles registries_{userPlaces()};
  Index index_;
  std::mutex commitMutex_;  // one change of store and index at a time
};

}  // namespace

Result<std::unique_ptr<Images>> Images::open(const Paths& paths, LiveSettings settings, std::set<std::string> inUse,
                                             const std::string& programs) {
  USERPOD_TRY(pool, LayerPool::open(paths, std::move(inUse)));
  std::string place = programs.empty() ? USERPOD_LIBEXEC : programs;
  return std::unique_ptr<Images>(
      std::make_unique<ImagesImpl>(std::move(pool), std::move(settings),
                                   PullPrograms{place + "/userpod-pull", place + "/userpod-unpack", paths.data}));
}

}  // namespace userpod::images

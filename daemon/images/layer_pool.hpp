// What of images is on disk: images.db and the directories <data>/layers/<name>, kept in step with each other.
#pragma once

#include <atomic>
#include <condition_variable>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <stop_token>
#include <string>
#include <utility>
#include <vector>

#include "daemon/images/unpack/extractor.hpp"
#include "daemon/store/image_store.hpp"
#include "daemon/sys/fd.hpp"
#include "daemon/sys/finding.hpp"
#include "daemon/sys/trash.hpp"
#include "policy/settings.hpp"

namespace userpod::images {

// Any thread. A directory is either named in the database or called .tmp-*: those are thrown away, as is what a crash
// left behind and no container uses. A layer that is complete stays for a day when its pull does not end well: the next
// pull goes on from there. Such a layer is not forced to disk: after a crash of the machine it is not believed.
class LayerPool {
 public:
  static Result<std::unique_ptr<LayerPool>> open(const Paths& paths, std::set<std::string> inUse);
  ~LayerPool();

  // The stored images whose layers are all there, when opened.
  std::vector<ImageRecord> takeLoaded() { return std::move(loaded_); }

  // Layers a pull uses: those that are there stay while it lives; the missing ones are for its holder alone to fetch.
  class Lease {
   public:
    Lease(Lease&& other) noexcept
        : pool_(other.pool_), all_(std::move(other.all_)), missing_(std::move(other.missing_)) {
      other.pool_ = nullptr;
    }
    Lease& operator=(Lease&&) = delete;
    ~Lease();
    const std::set<std::string>& missing() const { return missing_; }
    // What was missing and is complete now goes with the lease, unless an image has it: the pull failed for a reason
    // that another try does not change.
    void forget();

   private:
    friend class LayerPool;
    Lease(LayerPool* pool, std::set<std::string> all, std::set<std::string> missing)
        : pool_(pool), all_(std::move(all)), missing_(std::move(missing)) {}
    LayerPool* pool_;
    std::set<std::string> all_;
    std::set<std::string> missing_;
  };
  // Of layers by their DiffIDs, or by blobLease() where that is not known yet. Waits while another pull fetches one of
  // the missing layers. All are taken at once: no two pulls wait for each other.
  Result<Lease> lease(const std::set<std::string>& diffIds, const std::stop_token& stop);
  static std::string blobLease(const std::string& blob) { return "blob:" + blob; }
  // The layer that this blob became; empty: nobody has fetched it yet.
  std::string layerOf(const std::string& blob);

  // A new empty directory to unpack into. Its destruction removes it, unless it was kept by commit().
  class Workspace {
   public:
    Workspace(Workspace&& other) noexcept
        : pool_(other.pool_), name_(std::move(other.name_)), fd_(std::move(other.fd_)) {
      other.pool_ = nullptr;
    }
    Workspace& operator=(Workspace&&) = delete;
    ~Workspace();
    int fd() const { return fd_.get(); }

   private:
    friend class LayerPool;
    Workspace(LayerPool* pool, std::string name, UniqueFd fd)
        : pool_(pool), name_(std::move(name)), fd_(std::move(fd)) {}
    LayerPool* pool_;
    std::string name_;
    UniqueFd fd_;
  };
  Result<Workspace> makeWorkspace();

  // One layer being unpacked, of whichever pull: all together are bounded, as each takes memory and a processor.
  class Slot {
   public:
    explicit Slot(std::atomic<int>& taken) : taken_(&taken) { ++taken; }
    Slot(Slot&& other) noexcept : taken_(std::exchange(other.taken_, nullptr)) {}
    Slot& operator=(Slot&&) = delete;
    ~Slot() {
      if (taken_ != nullptr) --*taken_;
    }

   private:
    std::atomic<int>* taken_;
  };
  Slot takeSlot() { return Slot(slots_); }
  // Whether a pull that has a layer under way should leave it at that.
  bool isCrowded() const { return slots_ >= kSlots; }

  struct FreshLayer {
    std::string diffId;
    std::string blob;
    Workspace workspace;
    Extracted extracted;
  };
  // A complete layer, for the image whose pull is under way and for any other.
  Status keep(FreshLayer layer);
  // Whatever is in memory of all layers goes to disk. After a failure no layer that was not on disk before is believed
  // any more: who says so of a lost write, says it once. Blocks.
  Status writeOut();
  // All data to disk, then the record: a crash at any point leaves the old state or the new one. The layers are leased.
  // Sets image.size, from all its layers.
  Status commit(ImageRecord& image);
  Status removeImage(const std::string& id);
  // Layers of pulls that have not ended well and that no pull uses now; the bytes they had.
  std::int64_t dropUnfinished();
  Result<ImageRecord> documents(const std::string& id);
  Result<std::vector<std::string>> directories(const std::vector<std::string>& diffIds);
  std::int64_t layerSize(const std::string& diffId);  // bytes unpacked; 0: not here
  std::uint64_t freeBytes() const;

  // layer_check.cpp. users: by DiffID, the images that have the layer.
  using Users = std::map<std::string, std::vector<std::string>>;
  Result<Findings> check(const Users& users);
  // Of each layer that there is, but for those that an older build has unpacked: what it holds is counted and compared.
  // counted(done, total) after each. Canceled.
  Result<Findings> countLayers(const Users& users, const std::stop_token& stop,
                               const std::function<void(std::size_t, std::size_t)>& counted);
  Result<std::vector<std::string>> imageIds();
  // What nobody has, by its name below root(); one that is known or under way meanwhile stays.
  Status discardUnknown(const std::string& name);
  // A layer that no image has and no pull uses, whether it is there or not.
  Status dropLayer(const std::string& diffId);

  const std::string& root() const { return root_; }

 private:
  LayerPool(std::string root, UniqueFd fd, std::unique_ptr<store::ImageStore> store, std::set<std::string> inUse);
  Status load();
  void release(const Lease& lease);
  // With mutex_ held: layers without image and lease that nobody is likely to want, or all.
  std::int64_t collect(bool all = false);
  bool isKnown(const std::string& name) const;  // with mutex_ held
  bool isLeased(const LayerRecord& layer) const;
  void discard(const std::string& name);
  void endWorkspace(const std::string& name);
  Status settle(FreshLayer& layer);
  Status loadLayers(std::set<std::string>& present);
  Status loadImages();

  const std::string root_;  // <data>/layers
  const UniqueFd rootFd_;
  const std::string boot_;             // of the machine
  const std::set<std::string> inUse_;  // names of directories; see Images::open()
  std::vector<ImageRecord> loaded_;

  static constexpr int kSlots = 6;
  std::atomic<int> slots_{0};

  std::mutex writingOut_;  // before mutex_

  std::mutex mutex_;
  std::condition_variable_any changed_;
  std::unique_ptr<store::ImageStore> store_;   // guarded by mutex_
  std::map<std::string, LayerRecord> layers_;  // by DiffID; guarded by mutex_
  std::map<std::string, int> leased_;          // guarded by mutex_
  std::set<std::string> fetching_;             // guarded by mutex_
  std::set<std::string> workspaces_;           // names below root_; guarded by mutex_

  Trash trash_;  // of root_
};

}  // namespace userpod::images

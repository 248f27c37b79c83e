// images.db: images, their names, and layers with who refers to them.
#pragma once

#include <functional>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "daemon/store/model.hpp"
#include "daemon/store/sqlite.hpp"
#include "daemon/sys/error.hpp"

namespace userpod::store {

struct LayerTotals {
  std::int64_t bytes = 0;
  std::int64_t inodes = 0;
};

// Used by one thread at a time.
class ImageStore {
 public:
  // A database that is damaged, or of a newer schema, is set aside as images.db.damaged and a new one begun: images can
  // be pulled again.
  static Result<std::unique_ptr<ImageStore>> open(const std::string& path);

  // Every image with its names and its documents, one at a time: the fields that are read from the documents are for
  // the caller to fill in. An error from `each` ends it.
  Status loadImages(const std::function<Status(ImageRecord)>& each);
  Result<std::vector<LayerRecord>> loadLayers();
  // DiffIDs of those whose size and inodes can be compared with what is on disk: builds before schema 3 counted
  // otherwise.
  Result<std::set<std::string>> countedLayers();
  // Ids, without reading what belongs to them.
  Result<std::vector<std::string>> imageIds();
  // Only manifest, its digest and config; NoSuchImage.
  Result<ImageRecord> documents(const std::string& id);
  // A layer that no image has yet. One that is known already is left as it is. Survives the process, not the machine.
  Status keepLayer(const LayerRecord& layer);
  // Of a layer that no image has, by its name or what was fetched for it; one may be empty: nobody waits for it any
  // more.
  Status expireLayer(const std::string& diffId, const std::string& blob);
  // The image with its names (taken from whatever image had them), in one transaction; its layers, which are known, are
  // its own from then on, and on disk: the caller has seen to that. The commit is on disk when this returns.
  Status commit(const ImageRecord& image);
  Status removeImage(const std::string& id);  // with its names; unknown: success
  Result<std::vector<LayerRecord>> unreferencedLayers();
  Status removeLayer(const std::string& diffId);

 private:
  explicit ImageStore(Database database) : database_(std::move(database)) {}
  static Result<std::unique_ptr<ImageStore>> openOnce(const std::string& path);
  Status prepare();
  Status migrate(std::int64_t version);
  Status putImage(const ImageRecord& image);
  Status putNames(const ImageRecord& image);

  Database database_;
};

// Sums over all layers; zero when there is no database yet. Opens it read-only: any process, any thread.
Result<LayerTotals> layerTotals(const std::string& path);

}  // namespace userpod::store

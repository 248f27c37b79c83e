// images.db: images, their names, and layers with who refers to them.
#pragma once

#include <memory>
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

  struct Content {
    // Only what is stored: the fields that are read from config and manifest are for the caller to fill in.
    std::vector<ImageRecord> images;
    std::vector<LayerRecord> layers;
  };
  Result<Content> load();
  // The image with its names (taken from whatever image had them) and the new layers, in one transaction. Layers the
  // database has already are left as they are. The commit is on disk when this returns.
  Status commit(const ImageRecord& image, const std::vector<LayerRecord>& newLayers);
  Status removeImage(const std::string& id);  // with its names; unknown: success
  Result<std::vector<LayerRecord>> unreferencedLayers();
  Status removeLayer(const std::string& diffId);

 private:
  explicit ImageStore(Database database) : database_(std::move(database)) {}
  static Result<std::unique_ptr<ImageStore>> openOnce(const std::string& path);
  Status prepare();
  Status putImage(const ImageRecord& image);
  Status putNames(const ImageRecord& image);

  Database database_;
};

// Sums over all layers; zero when there is no database yet. Opens it read-only: any process, any thread.
Result<LayerTotals> layerTotals(const std::string& path);

}  // namespace userpod::store

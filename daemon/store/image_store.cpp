#include "daemon/store/image_store.hpp"

#include <fmt/core.h>

#include "daemon/sys/fd.hpp"
#include "daemon/sys/log.hpp"

namespace userpod::store {

namespace {

constexpr std::int64_t kVersion = 3;
constexpr int kNewerSchema = -1000;  // in Error::sysErrno(), as isDamage() does

constexpr const char* kSchema = R"(
CREATE TABLE images(
  id TEXT PRIMARY KEY, manifest BLOB NOT NULL, config BLOB NOT NULL, manifest_digest TEXT NOT NULL,
  size INTEGER NOT NULL, created_at INTEGER NOT NULL, pinned INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE names(
  name TEXT PRIMARY KEY, is_tag INTEGER NOT NULL,
  image_id TEXT NOT NULL REFERENCES images(id) ON DELETE CASCADE) WITHOUT ROWID;
CREATE INDEX names_of_image ON names(image_id);
CREATE TABLE layers(
  diff_id TEXT PRIMARY KEY, directory TEXT NOT NULL UNIQUE, size INTEGER NOT NULL, inodes INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE image_layers(
  image_id TEXT NOT NULL REFERENCES images(id) ON DELETE CASCADE, position INTEGER NOT NULL,
  diff_id TEXT NOT NULL REFERENCES layers(diff_id), PRIMARY KEY(image_id, position)) WITHOUT ROWID;
CREATE INDEX images_of_layer ON image_layers(diff_id);
)";

// Since version 2: layers that no image has yet.
constexpr const char* kUnusedLayers = R"(
ALTER TABLE layers ADD COLUMN blob TEXT NOT NULL DEFAULT '';
ALTER TABLE layers ADD COLUMN unused_since INTEGER NOT NULL DEFAULT 0;
ALTER TABLE layers ADD COLUMN boot TEXT NOT NULL DEFAULT '';
)";

// Since version 3: whether size and inodes are those of what is there in the end. Before, holes were not counted, and
// files that later entries had replaced were.
constexpr const char* kCounting = "ALTER TABLE layers ADD COLUMN counted INTEGER NOT NULL DEFAULT 0";

constexpr const char* kLayerColumns = "diff_id, directory, size, inodes, blob, unused_since, boot";

LayerRecord readLayer(const Statement& row) {
  return {.diffId = row.text(0),
          .directory = row.text(1),
          .size = row.integer(2),
          .inodes = row.integer(3),
          .blob = row.text(4),
          .unusedSince = row.integer(5),
          .boot = row.text(6)};
}

}  // namespace

Result<std::unique_ptr<ImageStore>> ImageStore::openOnce(const std::string& path) {
  USERPOD_TRY(database, Database::open(path));
  std::unique_ptr<ImageStore> store(new ImageStore(std::move(database)));
  USERPOD_CHECK(store->prepare());
  return store;
}

Result<std::unique_ptr<ImageStore>> ImageStore::open(const std::string& path) {
  auto store = openOnce(path);
  if (store || !(isDamage(store.error()) || store.error().sysErrno() == kNewerSchema)) return store;
  logError("{}; it is kept as {}.damaged, images have to be pulled again", store.error(), path);
  USERPOD_CHECK(setAside(path));
  return openOnce(path);
}

Status ImageStore::prepare() {
  USERPOD_CHECK(database_.quickCheck());
  USERPOD_TRY(version, database_.userVersion());
  if (version == kVersion) return {};
  if (version > kVersion)
    return Error(Code::StorageFailed,
                 fmt::format("database {} is of a newer userpod (schema {})", database_.path(), version), kNewerSchema);
  USERPOD_TRY(transaction, Transaction::begin(database_));
  USERPOD_CHECK(migrate(version));
  USERPOD_CHECK(database_.setUserVersion(kVersion));
  return transaction.commit();
}

Status ImageStore::migrate(std::int64_t version) {
  if (version < 1) USERPOD_CHECK(database_.execute(kSchema));
  if (version < 2) USERPOD_CHECK(database_.execute(kUnusedLayers));
  if (version < 3) USERPOD_CHECK(database_.execute(kCounting));
  return {};
}

Status ImageStore::loadImages(const std::function<Status(ImageRecord)>& each) {
  USERPOD_TRY(images, database_.prepare("SELECT id, manifest, config, manifest_digest, size, created_at, pinned "
                                        "FROM images"));
  USERPOD_TRY(names, database_.prepare("SELECT name, is_tag FROM names WHERE image_id=? ORDER BY name"));
  for (;;) {
    USERPOD_TRY(row, images.step());
    if (!row) return {};
    ImageRecord image;
    image.id = images.text(0);
    image.manifest = images.blob(1);
    image.config = images.blob(2);
    image.manifestDigest = images.text(3);
    image.size = images.integer(4);
    image.createdAt = images.integer(5);
    image.pinned = images.integer(6) != 0;
    names.bind(1, image.id);
    for (;;) {
      USERPOD_TRY(named, names.step());
      if (!named) break;
      (names.integer(1) != 0 ? image.repoTags : image.repoDigests).push_back(names.text(0));
    }
    USERPOD_CHECK(each(std::move(image)));
  }
}

Result<std::vector<std::string>> ImageStore::imageIds() {
  std::vector<std::string> found;
  USERPOD_TRY(statement, database_.prepare("SELECT id FROM images"));
  for (;;) {
    USERPOD_TRY(row, statement.step());
    if (!row) return found;
    found.push_back(statement.text(0));
  }
}

Result<ImageRecord> ImageStore::documents(const std::string& id) {
  USERPOD_TRY(statement, database_.prepare("SELECT manifest, config, manifest_digest FROM images WHERE id=?"));
  statement.bind(1, id);
  USERPOD_TRY(row, statement.step());
  if (!row) return Error(Code::NoSuchImage, "there is no image " + id);
  ImageRecord image;
  image.id = id;
  image.manifest = statement.blob(0);
  image.config = statement.blob(1);
  image.manifestDigest = statement.text(2);
  return image;
}

Result<std::vector<LayerRecord>> ImageStore::loadLayers() {
  std::vector<LayerRecord> found;
  USERPOD_TRY(layers, database_.prepare(fmt::format("SELECT {} FROM layers", kLayerColumns)));
  for (;;) {
    USERPOD_TRY(row, layers.step());
    if (!row) return found;
    found.push_back(readLayer(layers));
  }
}

Result<std::set<std::string>> ImageStore::countedLayers() {
  std::set<std::string> found;
  USERPOD_TRY(statement, database_.prepare("SELECT diff_id FROM layers WHERE counted<>0"));
  for (;;) {
    USERPOD_TRY(row, statement.step());
    if (!row) return found;
    found.insert(statement.text(0));
  }
}

Status ImageStore::keepLayer(const LayerRecord& layer) {
  USERPOD_TRY(statement, database_.prepare(fmt::format(
                             "INSERT OR IGNORE INTO layers({}, counted) VALUES(?,?,?,?,?,?,?,1)", kLayerColumns)));
  statement.bind(1, layer.diffId).bind(2, layer.directory).bind(3, layer.size).bind(4, layer.inodes);
  statement.bind(5, layer.blob).bind(6, layer.unusedSince).bind(7, layer.boot);
  return statement.run();
}

Status ImageStore::putImage(const ImageRecord& image) {
  USERPOD_TRY(statement, database_.prepare(
                             "INSERT INTO images(id, manifest, config, manifest_digest, size, created_at, pinned) "
                             "VALUES(?,?,?,?,?,?,?) ON CONFLICT(id) DO UPDATE SET manifest=excluded.manifest, "
                             "manifest_digest=excluded.manifest_digest, size=excluded.size, pinned=excluded.pinned"));
  statement.bind(1, image.id).bindBlob(2, image.manifest).bindBlob(3, image.config).bind(4, image.manifestDigest);
  statement.bind(5, image.size).bind(6, image.createdAt).bind(7, static_cast<std::int64_t>(image.pinned));
  USERPOD_CHECK(statement.run());
  USERPOD_TRY(layer,
              database_.prepare("INSERT OR REPLACE INTO image_layers(image_id, position, diff_id) VALUES(?,?,?)"));
  for (std::size_t position = 0; position < image.diffIds.size(); ++position) {
    layer.bind(1, image.id).bind(2, static_cast<std::int64_t>(position)).bind(3, image.diffIds[position]);
    USERPOD_CHECK(layer.run());
  }
  return {};
}

Status ImageStore::putNames(const ImageRecord& image) {
  USERPOD_TRY(statement, database_.prepare("INSERT INTO names(name, is_tag, image_id) VALUES(?,?,?) "
                                           "ON CONFLICT(name) DO UPDATE SET image_id=excluded.image_id"));
  for (const auto* names : {&image.repoTags, &image.repoDigests})
    for (const auto& name : *names) {
      statement.bind(1, name).bind(2, std::int64_t{names == &image.repoTags}).bind(3, image.id);
      USERPOD_CHECK(statement.run());
    }
  return {};
}

Status ImageStore::expireLayer(const std::string& diffId, const std::string& blob) {
  USERPOD_TRY(statement, database_.prepare("UPDATE layers SET unused_since=1 WHERE unused_since<>0 AND "
                                           "(diff_id=?1 OR (blob=?2 AND blob<>''))"));
  statement.bind(1, diffId).bind(2, blob);
  return statement.run();
}

Status ImageStore::commit(const ImageRecord& image) {
  USERPOD_CHECK(database_.setSync(Sync::Full));
  Status done = [&]() -> Status {
    USERPOD_TRY(transaction, Transaction::begin(database_));
    USERPOD_TRY(statement, database_.prepare("UPDATE layers SET unused_since=0, boot='' WHERE diff_id=?"));
    for (const auto& layer : image.diffIds) {
      statement.bind(1, layer);
      USERPOD_CHECK(statement.run());
    }
    USERPOD_CHECK(putImage(image));
    USERPOD_CHECK(putNames(image));
    return transaction.commit();
  }();
  USERPOD_CHECK(database_.setSync(Sync::Normal));
  return done;
}

Status ImageStore::removeImage(const std::string& id) {
  USERPOD_TRY(statement, database_.prepare("DELETE FROM images WHERE id=?"));
  statement.bind(1, id);
  return statement.run();
}

Result<std::vector<LayerRecord>> ImageStore::unreferencedLayers() {
  std::vector<LayerRecord> found;
  USERPOD_TRY(statement,
              database_.prepare(fmt::format("SELECT {} FROM layers WHERE NOT EXISTS "
                                            "(SELECT 1 FROM image_layers WHERE image_layers.diff_id=layers.diff_id)",
                                            kLayerColumns)));
  for (;;) {
    USERPOD_TRY(row, statement.step());
    if (!row) return found;
    found.push_back(readLayer(statement));
  }
}

Status ImageStore::removeLayer(const std::string& diffId) {
  USERPOD_TRY(statement, database_.prepare("DELETE FROM layers WHERE diff_id=?"));
  statement.bind(1, diffId);
  return statement.run();
}

Result<LayerTotals> layerTotals(const std::string& path) {
  if (!pathExists(path)) return LayerTotals{};
  USERPOD_TRY(database, Database::open(path, {.readOnly = true}));
  USERPOD_TRY(statement, database.prepare("SELECT coalesce(sum(size),0), coalesce(sum(inodes),0) FROM layers"));
  USERPOD_TRY(row, statement.step());
  return row ? LayerTotals{statement.integer(0), statement.integer(1)} : LayerTotals{};
}

}  // namespace userpod::store

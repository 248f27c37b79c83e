// Layers on disk compared with their records.
#include "daemon/images/layer_check.hpp"

#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdlib>

#include "daemon/images/digest.hpp"
#include "daemon/images/layer_pool.hpp"
#include "daemon/sys/fd.hpp"

namespace userpod::images {
namespace {

using Codes = std::vector<std::string>;

LayersSeen twoLayers() {
  LayersSeen seen;
  seen.root = "/data/layers";
  seen.known["sha256:1"] = {.diffId = "sha256:1", .directory = "one"};
  seen.known["sha256:2"] = {.diffId = "sha256:2", .directory = "two"};
  seen.recorded = {"sha256:1", "sha256:2"};
  seen.directories = {"one", "two"};
  seen.users["sha256:1"] = {"sha256:image"};
  return seen;
}

Codes codesOf(const Findings& findings) {
  Codes codes;
  for (const auto& finding : findings) codes.push_back(finding.code + " " + finding.id);
  return codes;
}

TEST(LayerCheck, InOrderIsNothing) {
  auto seen = twoLayers();
  seen.directories.insert({".tmp-1", "renamed", ".trash-1", "kept"});
  seen.underWay = {".tmp-1", "renamed", ".trash-1"};
  seen.inUse = {"kept"};
  EXPECT_EQ(codesOf(compareLayers(seen)), Codes{});
}

TEST(LayerCheck, MissingAndUnknown) {
  auto seen = twoLayers();
  seen.directories = {"two", "stranger", ".tmp-2", ".trash-2"};
  seen.others = {"one", "file"};
  auto found = compareLayers(seen);
  EXPECT_EQ(codesOf(found), (Codes{"layer-missing sha256:1", "layer-half-made /data/layers/.tmp-2",
                                   "layer-trash-left /data/layers/.trash-2", "layer-unknown /data/layers/file",
                                   "layer-unknown /data/layers/stranger"}))
      << "a record's name is its own, whatever has it";
  EXPECT_NE(found[0].text.find("no directory"), std::string::npos);
  EXPECT_NE(found[0].text.find("sha256:image"), std::string::npos);
}

TEST(LayerCheck, TheDatabaseAndTheDaemonDiffer) {
  auto seen = twoLayers();
  seen.recorded = {"sha256:2", "sha256:3"};
  EXPECT_EQ(codesOf(compareLayers(seen)), (Codes{"layer-not-recorded sha256:1", "layer-not-loaded sha256:3"}));
}

TEST(LayerCheck, CountsFilesAndLinksOnce) {
  std::string top = "/tmp/userpod-count-XXXXXX";
  ASSERT_NE(::mkdtemp(top.data()), nullptr);
  ASSERT_TRUE(makeDirectories(top + "/a/b/c"));
  ASSERT_TRUE(writeFile(top + "/a/file", "12345"));
  ASSERT_EQ(::link((top + "/a/file").c_str(), (top + "/a/b/again").c_str()), 0);
  ASSERT_EQ(::symlink("/etc", (top + "/a/link").c_str()), 0);
  auto count = countTree(top, {});
  ASSERT_TRUE(count);
  EXPECT_EQ(count->bytes, 5);
  EXPECT_EQ(count->inodes, 5) << "three directories, a file, a link: what it leads to is elsewhere";
  LayerRecord layer{.diffId = "sha256:1", .directory = "one", .size = 5, .inodes = 5};
  EXPECT_EQ(compareCount(layer, *count, {}), Findings{});
  layer.size = 6;
  EXPECT_EQ(codesOf(compareCount(layer, *count, {})), Codes{"layer-changed sha256:1"});
  std::stop_source stop;
  stop.request_stop();
  EXPECT_EQ(countTree(top, stop.get_token()).error().code(), Code::Canceled);
  ASSERT_TRUE(removeTree(top));
  EXPECT_FALSE(countTree(top, {}));
}

TEST(LayerCheck, ALayerInUseStaysAndOneOfAnOlderBuildIsNotCompared) {
  std::string top = "/tmp/userpod-pool-XXXXXX";
  ASSERT_NE(::mkdtemp(top.data()), nullptr);
  Paths paths{.runtime = top, .data = top, .config = top, .node = top};
  const std::string layer = "sha256:" + std::string(64, '1');
  ASSERT_TRUE(makeDirectories(top + "/layers/aa"));
  {
    auto store = store::ImageStore::open(paths.imageDatabase());
    ASSERT_TRUE(store) << store.error().text();
    ASSERT_TRUE((*store)->keepLayer({.diffId = layer, .directory = "aa", .size = 0, .inodes = 7}));
  }
  auto pool = LayerPool::open(paths, {"aa"});
  ASSERT_TRUE(pool) << pool.error().text();
  auto counted = [&] { return codesOf(*(*pool)->countLayers({}, {}, [](std::size_t, std::size_t) {})); };
  EXPECT_EQ(counted(), Codes{"layer-changed " + layer});
  EXPECT_EQ((*pool)->dropLayer(layer).error().code(), Code::Busy) << "no image has it, a container does";
  EXPECT_TRUE(pathExists(top + "/layers/aa"));
  auto database = store::Database::open(paths.imageDatabase());
  ASSERT_TRUE(database);
  ASSERT_TRUE(database->execute("UPDATE layers SET counted=0"));
  EXPECT_EQ(counted(), Codes{});
  pool->reset();
  ASSERT_TRUE(removeTree(top));
}

TEST(LayerCheck, DocumentsAreWhatTheImageIsNamedBy) {
  ImageRecord image;
  image.config = R"({"architecture":"amd64","os":"linux","rootfs":{"type":"layers","diff_ids":[]}})";
  image.id = sha256Digest(image.config);
  image.manifest =
      R"({"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":{"mediaType":)"
      R"("application/vnd.oci.image.config.v1+json","digest":")" +
      image.id + R"(","size":10},"layers":[]})";
  image.manifestDigest = sha256Digest(image.manifest);
  EXPECT_EQ(codesOf(checkDocuments(image)), Codes{});
  auto changed = image;
  changed.config.back() = ' ';
  EXPECT_EQ(codesOf(checkDocuments(changed)), Codes{"image-document-damaged " + image.id});
  changed = image;
  changed.manifest += " ";
  EXPECT_EQ(codesOf(checkDocuments(changed)), Codes{"image-document-damaged " + image.id});
}

}  // namespace
}  // namespace userpod::images

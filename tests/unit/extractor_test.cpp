// Unpacking layers, and the store of images.
#include "daemon/images/unpack/extractor.hpp"

#include <archive.h>
#include <archive_entry.h>
#include <fmt/core.h>
#include <gtest/gtest.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/xattr.h>

#include "daemon/images/unpack/layer_tree.hpp"
#include "daemon/storage/layer_format.hpp"
#include "daemon/store/image_store.hpp"
#include "daemon/sys/fd.hpp"
#include "tests/unit/namespace.hpp"

namespace userpod::images {
namespace {

const std::string kLayer = "sha256:" + std::string(64, 'a');
const std::string kOtherLayer = "sha256:" + std::string(64, 'b');

struct TarOptions {
  mode_t mode = 0644;
  std::int64_t uid = 0;
  std::int64_t gid = 0;
  std::string link;
  std::string data;
  std::vector<std::pair<std::string, std::string>> attributes;
  time_t time = 1000000000;
  dev_t device = 0;
};

// A tar in memory.
class Tar {
 public:
  explicit Tar(bool pax = true) : writer_(archive_write_new()) {
    pax ? archive_write_set_format_pax_restricted(writer_) : archive_write_set_format_gnutar(writer_);
    archive_write_set_options(writer_, "hdrcharset=BINARY");
    archive_write_set_bytes_per_block(writer_, 0);
    archive_write_open(writer_, this, nullptr, write, nullptr);
  }
  ~Tar() { archive_write_free(writer_); }
  Tar(const Tar&) = delete;
  Tar& operator=(const Tar&) = delete;

  Tar& add(const std::string& path, mode_t type, const TarOptions& options = {}) {
    archive_entry* entry = archive_entry_new();
    archive_entry_copy_pathname(entry, path.c_str());
    archive_entry_set_mode(entry, type | options.mode);
    archive_entry_set_uid(entry, options.uid);
    archive_entry_set_gid(entry, options.gid);
    archive_entry_set_mtime(entry, options.time, 0);
    archive_entry_set_size(entry, static_cast<la_int64_t>(options.data.size()));
    if (type == AE_IFLNK) archive_entry_copy_symlink(entry, options.link.c_str());
    if (type == AE_IFCHR || type == AE_IFBLK) archive_entry_set_rdev(entry, options.device);
    for (const auto& [name, value] : options.attributes)
      archive_entry_xattr_add_entry(entry, name.c_str(), value.data(), value.size());
    put(entry, options.data);
    return *this;
  }
  Tar& hardLink(const std::string& path, const std::string& target) {
    archive_entry* entry = archive_entry_new();
    archive_entry_copy_pathname(entry, path.c_str());
    archive_entry_set_mode(entry, AE_IFREG | 0644);
    archive_entry_copy_hardlink(entry, target.c_str());
    put(entry, "");
    return *this;
  }
  Tar& file(const std::string& path, const std::string& data = "x") { return add(path, AE_IFREG, {.data = data}); }
  Tar& directory(const std::string& path) { return add(path, AE_IFDIR, {.mode = 0755}); }
  Tar& link(const std::string& path, const std::string& target) {
    return add(path, AE_IFLNK, {.mode = 0777, .link = target});
  }
  std::string bytes() {
    archive_write_close(writer_);
    return bytes_;
  }

 private:
  static la_ssize_t write(struct archive*, void* self, const void* data, std::size_t size) {
    static_cast<Tar*>(self)->bytes_.append(static_cast<const char*>(data), size);
    return static_cast<la_ssize_t>(size);
  }
  void put(archive_entry* entry, const std::string& data) {
    EXPECT_EQ(archive_write_header(writer_, entry), ARCHIVE_OK) << archive_error_string(writer_);
    if (!data.empty()) archive_write_data(writer_, data.data(), data.size());
    archive_entry_free(entry);
  }
  struct archive* writer_;
  std::string bytes_;
};

class ExtractorTest : public ::testing::Test {
 protected:
  void SetUp() override {
    static const std::string refused = testing::enterUserNamespace();
    if (!refused.empty()) GTEST_SKIP() << refused;
    ::umask(077);  // must not matter
    base_ = testing::makeTestDirectory();
    root_ = base_ + "/layer";
    ASSERT_EQ(::mkdir(root_.c_str(), 0755), 0);
  }
  void TearDown() override {
    if (base_.empty()) return;
    EXPECT_TRUE(removeTree(base_));
  }
  Result<Extracted> extract(const std::string& tar, std::size_t step = 512 * 7 + 3) {
    auto root = openFile(root_, O_RDONLY | O_DIRECTORY);
    std::string_view rest = tar;
    std::string part;
    auto next = [&]() -> Result<std::string_view> {
      part = rest.substr(0, step);
      rest.remove_prefix(part.size());
      return std::string_view(part);
    };
    UnpackCounters counters;
    UnpackBudget budget(limits_, counters);
    return extractTar(root->get(), next, budget);
  }
  Code codeOf(const std::string& tar) {
    auto done = extract(tar);
    return done ? Code::Internal : done.error().code();
  }
  struct stat at(const std::string& path) {
    struct stat info{};
    EXPECT_EQ(::lstat((root_ + "/" + path).c_str(), &info), 0) << path;
    return info;
  }
  bool there(const std::string& path) { return pathExists(root_ + "/" + path); }
  std::string text(const std::string& path) { return *readFile(root_ + "/" + path); }
  std::string attribute(const std::string& path, const char* name) {
    char value[64];
    auto size = ::lgetxattr((root_ + "/" + path).c_str(), name, value, sizeof value);
    return size < 0 ? "-" : std::string(value, static_cast<std::size_t>(size));
  }
  bool isWhiteout(const std::string& path) {
    auto info = at(path);
    return S_ISCHR(info.st_mode) && info.st_rdev == 0;
  }

  std::string base_, root_;
  UnpackLimits limits_{64LL << 30, 5'000'000, 250};
};

TEST_F(ExtractorTest, Ordinary) {
  Tar tar;
  std::string longName(200, 'n');
  tar.add("./", AE_IFDIR, {.mode = 0751, .time = 5}).directory("usr").directory("usr/bin").link("bin", "usr/bin");
  tar.file("bin/sh", std::string(100000, 's')).add("/usr/bin/su", AE_IFREG, {.mode = 04755, .data = "su"});
  tar.hardLink("usr/bin/su2", "usr/bin/su")
      .add("tmp", AE_IFDIR, {.mode = 01777, .time = 77})
      .add("tmp/f", AE_IFIFO, {.mode = 0600});
  tar.file("deep/er/" + longName + "/file")
      .file("gr\xc3\xb6\xc3\x9f", "utf8")
      .file("gro\xcc\x88", "nfd")
      .file("latin\xf6", "latin");
  tar.add("x", AE_IFREG, {.attributes = {{"user.a", "b"}, {"trusted.c", "d"}, {"security.selinux", "e"}}});
  tar.add("dev", AE_IFCHR, {.device = makedev(1, 1)}).directory("tmp/late");
  auto done = extract(tar.bytes());
  ASSERT_TRUE(done) << done.error().text();
  EXPECT_EQ(at("").st_mode & 07777, 0751U);
  EXPECT_EQ(at("").st_mtime, 5);
  EXPECT_EQ(attribute("", storage::kRootMark), "y");
  EXPECT_EQ(text("usr/bin/sh").size(), 100000U);
  EXPECT_EQ(at("usr/bin/sh").st_mtime, 1000000000);
  EXPECT_EQ(at("usr/bin/su").st_mode & 07777, 04755U);
  EXPECT_EQ(at("usr/bin/su").st_ino, at("usr/bin/su2").st_ino);
  EXPECT_TRUE(S_ISLNK(at("bin").st_mode));
  EXPECT_EQ(at("tmp").st_mode & 07777, 01777U);
  EXPECT_EQ(at("tmp").st_mtime, 77);  // although entries came later
  EXPECT_TRUE(S_ISFIFO(at("tmp/f").st_mode));
  EXPECT_EQ(at("deep/er").st_mode & 07777, 0755U);
  EXPECT_TRUE(there("deep/er/" + longName + "/file"));
  EXPECT_EQ(text("gr\xc3\xb6\xc3\x9f"), "utf8");
  EXPECT_EQ(text("gro\xcc\x88"), "nfd");
  EXPECT_EQ(text("latin\xf6"), "latin");
  EXPECT_EQ(attribute("x", "user.a"), "b");
  EXPECT_FALSE(there("dev"));
  EXPECT_EQ(done->bytes, 100000 + 2 + 1 - 1 + 1 + 4 + 3 + 5);
}

TEST_F(ExtractorTest, LaterEntriesReplace) {
  Tar tar(false);
  tar.file("a", "1")
      .file("a", "2")
      .directory("b")
      .file("b/c")
      .file("b", "now a file")
      .file("d")
      .directory("d")
      .file("d/e");
  tar.directory("k").link("l", "k").file("l/x").directory("l").file("l/y").link("m", "k").link("m", "d").file("m/z");
  auto done = extract(tar.bytes());
  ASSERT_TRUE(done) << done.error().text();
  EXPECT_EQ(text("a"), "2");
  EXPECT_EQ(text("b"), "now a file");
  EXPECT_TRUE(there("d/e"));
  EXPECT_TRUE(there("k/x"));
  EXPECT_TRUE(S_ISDIR(at("l").st_mode));
  EXPECT_FALSE(there("k/y"));
  EXPECT_TRUE(there("d/z"));
  EXPECT_FALSE(there("k/z"));
}

TEST_F(ExtractorTest, Whiteouts) {
  Tar tar;
  tar.file("dir/.wh.gone", "")
      .file("dir/.wh..wh..opq", "")
      .file("dir/kept")
      .file(".wh..wh.plnk", "")
      .file(".wh.kept", "");
  tar.file("kept", "new").file(".wh.again", "").directory("again").directory("both").file(".wh.both", "");
  auto done = extract(tar.bytes());
  ASSERT_TRUE(done) << done.error().text();
  EXPECT_TRUE(isWhiteout("dir/gone"));
  EXPECT_FALSE(there("dir/.wh.gone"));
  EXPECT_EQ(attribute("dir", "user.overlay.opaque"), "y");
  EXPECT_EQ(text("kept"), "new");
  EXPECT_FALSE(there(".wh..wh.plnk"));
  EXPECT_EQ(attribute("again", "user.overlay.opaque"), "y");
  EXPECT_EQ(attribute("both", "user.overlay.opaque"), "y");
  for (const char* bad : {"a/.wh.", "a/.wh..", "a/.wh..."})
    EXPECT_EQ(codeOf(Tar().file(bad, "").bytes()), Code::ImageInvalid) << bad;
}

// Where the file system takes no whiteouts, as an overlay: see storage/layer_format.hpp.
TEST_F(ExtractorTest, WhiteoutsByName) {
  for (const char* part : {"/lower", "/upper", "/work"}) ASSERT_EQ(::mkdir((base_ + part).c_str(), 0755), 0);
  std::string options =
      "userxattr,lowerdir=" + base_ + "/lower,upperdir=" + base_ + "/upper,workdir=" + base_ + "/work";
  if (::mount("overlay", root_.c_str(), "overlay", 0, options.c_str()) < 0) GTEST_SKIP() << "no overlay in " << base_;
  Tar tar;
  tar.file("dir/.wh.gone", "")
      .file("dir/.wh.gone", "")
      .file("kept")
      .file(".wh.kept", "")
      .file(".wh.later", "")
      .file("later", "new");
  tar.file(".wh.again", "")
      .directory("again")
      .directory("both")
      .file(".wh.both", "")
      .file(".wh.parent", "")
      .file("parent/f");
  tar.file(".wh.link", "").link("link", "kept").file(".wh.hard", "").hardLink("hard", "kept");
  auto done = extract(tar.bytes());
  EXPECT_TRUE(done) << done.error().text();
  EXPECT_TRUE(there("dir/.wh.gone"));
  EXPECT_EQ(text("later"), "new");
  for (const char* name : {"kept", "later", "again", "both", "parent", "link", "hard"}) {
    EXPECT_TRUE(there(name)) << name;
    EXPECT_FALSE(there(std::string(".wh.") + name)) << name;
  }
  for (const std::string name : {"again", "both", "parent"})
    EXPECT_TRUE(attribute(name, storage::kOpaqueMark) == "y" || there(name + "/" + storage::kOpaqueFile)) << name;
  EXPECT_EQ(::umount2(root_.c_str(), MNT_DETACH), 0);
}

TEST_F(ExtractorTest, CannotLeave) {
  std::string outside = base_ + "/outside";
  ASSERT_EQ(::mkdir(outside.c_str(), 0755), 0);
  ASSERT_TRUE(writeFile(outside + "/secret", "s"));
  EXPECT_EQ(codeOf(Tar().file("../outside/f").bytes()), Code::ImageInvalid);
  EXPECT_EQ(codeOf(Tar().file("a/../../outside/f").bytes()), Code::ImageInvalid);
  EXPECT_EQ(codeOf(Tar().hardLink("h", "../outside/secret").bytes()), Code::ImageInvalid);
  EXPECT_EQ(codeOf(Tar().link("l", outside).file("l/f").bytes()), Code::ImageInvalid);
  EXPECT_EQ(codeOf(Tar().link("up", "..").hardLink("h2", "up/outside/secret").bytes()), Code::ImageInvalid);
  EXPECT_EQ(codeOf(Tar().link("abs", outside + "/secret").file("abs", "over").bytes()), Code::Internal);
  EXPECT_EQ(text("abs"), "over");
  // Up from the root is the root.
  auto done = extract(Tar().link("d", "../../..").file("d/inside").bytes());
  ASSERT_TRUE(done) << done.error().text();
  EXPECT_TRUE(there("inside"));
  EXPECT_EQ(codeOf(Tar().link("p", "/proc/self/root").file("p/f").bytes()), Code::ImageInvalid);
  EXPECT_EQ(text("../outside/secret"), "s");
  EXPECT_FALSE(pathExists(outside + "/f"));
}

TEST_F(ExtractorTest, Refused) {
  EXPECT_EQ(codeOf(Tar().add("f", AE_IFREG, {.attributes = {{"user.overlay.opaque", "y"}}}).bytes()),
            Code::ImageInvalid);
  EXPECT_EQ(codeOf(Tar().add("g", AE_IFDIR, {.attributes = {{"user.overlay.redirect", "/"}}}).bytes()),
            Code::ImageInvalid);
  EXPECT_EQ(codeOf(Tar().hardLink("h", "missing").bytes()), Code::ImageInvalid);
  EXPECT_EQ(codeOf(Tar().directory("d").hardLink("h", "d").bytes()), Code::ImageInvalid);
  EXPECT_EQ(codeOf(std::string(3000, 'n')), Code::ImageInvalid);
  EXPECT_EQ(codeOf(Tar().file("f", std::string(5000, 'x')).bytes().substr(0, 3000)), Code::ImageInvalid);
  std::string deep;
  for (int i = 0; i < 1500; ++i) deep += "abc/";
  EXPECT_EQ(codeOf(Tar().file(deep).bytes()), Code::ImageInvalid);
  EXPECT_EQ(codeOf(Tar().file("f/").file("f/under").bytes()), Code::ImageInvalid);
  auto foreign = extract(Tar().add("u", AE_IFREG, {.uid = 4000000000}).bytes());
  ASSERT_FALSE(foreign);
  EXPECT_EQ(foreign.error().code(), Code::SubIdMissing);
  EXPECT_NE(foreign.error().text().find("/u of the layer belongs to 4000000000"), std::string::npos);
}

TEST_F(ExtractorTest, EmptyAndTrailing) {
  EXPECT_TRUE(extract(""));
  EXPECT_TRUE(extract(std::string(1024, '\0')));
  EXPECT_TRUE(extract(Tar().file("f").bytes() + std::string(100000, 'g')));
  EXPECT_EQ(text("f"), "x");
}

TEST_F(ExtractorTest, Limits) {
  limits_.bytes = 1000;
  limits_.entries = 10;
  auto tooLarge = extract(Tar().file("a", std::string(600, 'x')).file("b", std::string(600, 'x')).bytes());
  ASSERT_FALSE(tooLarge);
  EXPECT_EQ(tooLarge.error().code(), Code::LimitsExceeded);
  EXPECT_TRUE(tooLarge.error().text().starts_with("/b: ")) << tooLarge.error().text();
  EXPECT_NE(tooLarge.error().text().find("image-size-limit"), std::string::npos);
  Tar many;
  for (int i = 0; i < 11; ++i) many.file("same", "x");
  EXPECT_EQ(codeOf(many.bytes()), Code::LimitsExceeded);
  EXPECT_EQ(codeOf(Tar().file("1/2/3/4/5/6/7/8/9/10/11").bytes()), Code::LimitsExceeded);
  limits_.bytes = limits_.entries = 0;
  EXPECT_TRUE(extract(many.bytes()));
}

TEST_F(ExtractorTest, HeadersWithoutEnd) {
  // A sparse map of three million holes, which libarchive would keep in memory.
  std::string map = "3000000\n";
  for (int i = 0; i < 3000000; ++i) map += "0\n0\n";
  map.resize((map.size() + 511) / 512 * 512);
  std::string tar = Tar().file("fine", std::string(20 << 20, 'x')).file("also-fine", "x").bytes();
  EXPECT_TRUE(extract(tar, 1 << 20));
  std::string records =
      "22 GNU.sparse.major=1\n22 GNU.sparse.minor=0\n21 GNU.sparse.name=s\n25 GNU.sparse.realsize=9\n";
  std::string pax = Tar(false).file("pax", records).bytes().substr(0, 1024);
  pax[156] = 'x';
  pax.replace(148, 8, 8, ' ');
  unsigned sum = 0;
  for (int i = 0; i < 512; ++i) sum += static_cast<unsigned char>(pax[i]);
  pax.replace(148, 8, fmt::format("{:06o}", sum) + std::string("\0 ", 2));
  auto bomb = extract(pax + Tar(false).file("GNUSparseFile.1/s", map).bytes(), 1 << 20);
  ASSERT_FALSE(bomb);
  EXPECT_NE(bomb.error().text().find("headers"), std::string::npos) << bomb.error().text();
}

TEST_F(ExtractorTest, Ratio) {
  UnpackCounters counters;
  UnpackBudget budget(limits_, counters);
  EXPECT_TRUE(budget.checkRatio(1, 200 << 20));
  EXPECT_TRUE(budget.checkRatio(2 << 20, 300 << 20));
  auto bomb = budget.checkRatio(1 << 20, 300 << 20);
  ASSERT_FALSE(bomb);
  EXPECT_NE(bomb.error().text().find("image-ratio-limit"), std::string::npos);
  EXPECT_FALSE(budget.takeBytes(INT64_MAX));
}

TEST_F(ExtractorTest, SourceFails) {
  auto root = openFile(root_, O_RDONLY | O_DIRECTORY);
  UnpackCounters counters;
  UnpackBudget budget(limits_, counters);
  auto done = extractTar(
      root->get(), []() -> Result<std::string_view> { return Error(Code::DigestMismatch, "other bytes"); }, budget);
  ASSERT_FALSE(done);
  EXPECT_EQ(done.error().code(), Code::DigestMismatch);
}

TEST_F(ExtractorTest, Store) {
  std::string path = base_ + "/images.db";
  ImageRecord image;
  image.id = kLayer;
  image.config = std::string("{\0}", 3);
  image.diffIds = {kLayer, kOtherLayer, kLayer};
  image.repoTags = {"a.b/c:1"};
  image.repoDigests = {"a.b/c@" + kLayer};
  {
    auto store = store::ImageStore::open(path);
    ASSERT_TRUE(store) << store.error().text();
    ASSERT_TRUE((*store)->keepLayer({.diffId = kLayer, .directory = "aa", .size = 5, .inodes = 1}));
    ASSERT_TRUE((*store)->keepLayer({.diffId = kOtherLayer,
                                     .directory = "bb",
                                     .size = 7,
                                     .inodes = 2,
                                     .blob = "b",
                                     .unusedSince = 3,
                                     .boot = "x"}));
    EXPECT_EQ((*store)->unreferencedLayers()->size(), 2U);
    ASSERT_TRUE((*store)->commit(image));
    ImageRecord second = image;
    second.id = kOtherLayer;
    second.diffIds = {kOtherLayer};
    second.repoDigests.clear();
    ASSERT_TRUE((*store)->commit(second));
    EXPECT_TRUE((*store)->removeImage("unknown"));
  }
  EXPECT_EQ(store::layerTotals(path)->bytes, 12);
  auto store = store::ImageStore::open(path);
  std::vector<ImageRecord> images;
  ASSERT_TRUE((*store)->loadImages([&](ImageRecord loaded) -> Status {
    images.push_back(std::move(loaded));
    return {};
  }));
  ASSERT_EQ(images.size(), 2U);
  EXPECT_TRUE(images[0].repoTags.empty());  // the second took the tag
  EXPECT_EQ(images[0].config, image.config);
  EXPECT_EQ(images[1].repoTags, image.repoTags);
  EXPECT_EQ((*store)->documents(kLayer)->config, image.config);
  EXPECT_EQ((*store)->documents("none").error().code(), Code::NoSuchImage);
  auto layers = (*store)->loadLayers();
  ASSERT_EQ(layers->size(), 2U);
  for (const auto& layer : *layers) EXPECT_TRUE(layer.boot.empty() && layer.unusedSince == 0) << layer.diffId;
  EXPECT_TRUE((*store)->unreferencedLayers()->empty());
  ASSERT_TRUE((*store)->removeImage(kLayer));
  auto loose = (*store)->unreferencedLayers();
  ASSERT_EQ(loose->size(), 1U);
  EXPECT_EQ((*loose)[0].directory, "aa");
  EXPECT_TRUE((*store)->removeLayer(kLayer));
  EXPECT_FALSE((*store)->removeLayer(kOtherLayer));  // in use
  store->reset();
  {
    // As an older build has left it.
    auto older = store::Database::open(path);
    ASSERT_TRUE(older) << older.error().text();
    ASSERT_TRUE(older->execute("ALTER TABLE layers DROP COLUMN counted"));
    ASSERT_TRUE(older->setUserVersion(2));
  }
  store = store::ImageStore::open(path);
  ASSERT_TRUE(store) << store.error().text();
  EXPECT_EQ((*store)->loadLayers()->size(), 1U);
  EXPECT_TRUE((*store)->countedLayers()->empty()) << "they were counted otherwise";
  ASSERT_TRUE((*store)->keepLayer({.diffId = kLayer, .directory = "cc", .size = 5, .inodes = 1}));
  EXPECT_EQ(*(*store)->countedLayers(), std::set<std::string>{kLayer});
  store->reset();
  ASSERT_TRUE(writeFile(path, "this was a database once, and is long enough to look like one by its size"));
  auto anew = store::ImageStore::open(path);
  ASSERT_TRUE(anew) << anew.error().text();
  EXPECT_TRUE((*anew)->loadLayers()->empty());
  EXPECT_TRUE(pathExists(path + ".damaged"));
}

}  // namespace
}  // namespace userpod::images

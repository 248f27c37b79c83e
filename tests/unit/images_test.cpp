#include <archive.h>
#include <archive_entry.h>
#include <fmt/core.h>
#include <gtest/gtest.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/xattr.h>
#include <zlib.h>
#include <zstd.h>

#include "daemon/images/challenge.hpp"
#include "daemon/images/decompress.hpp"
#include "daemon/images/digest.hpp"
#include "daemon/images/extractor.hpp"
#include "daemon/images/layer_tree.hpp"
#include "daemon/images/manifest.hpp"
#include "daemon/images/reference.hpp"
#include "daemon/storage/layer_format.hpp"
#include "daemon/store/image_store.hpp"
#include "daemon/sys/fd.hpp"
#include "tests/unit/namespace.hpp"

namespace userpod::images {
namespace {

const std::string kDigest = "sha256:" + std::string(64, 'a');
const std::string kOtherDigest = "sha256:" + std::string(64, 'b');

TEST(Reference, Parts) {
  struct Case {
    const char* text;
    const char* host;
    const char* path;
    const char* tag;
    bool digest;
  };
  const std::string withDigest = "a.b/c@" + kDigest, withBoth = "a.b:5/c/d:v1@" + kDigest;
  const Case cases[] = {
      {"nginx", "", "nginx", "", false},
      {"nginx:1.25", "", "nginx", "1.25", false},
      {"team/nginx", "", "team/nginx", "", false},
      {"docker.io/nginx", "docker.io", "library/nginx", "", false},
      {"docker.io/team/nginx:x", "docker.io", "team/nginx", "x", false},
      {"localhost/nginx", "localhost", "nginx", "", false},
      {"localhost:5000/a/b_c/d__e/f-g--h.i:T_1.2-3", "localhost:5000", "a/b_c/d__e/f-g--h.i", "T_1.2-3", false},
      {"127.0.0.1:80/x", "127.0.0.1:80", "x", "", false},
      {"[::1]:5000/x:y", "[::1]:5000", "x", "y", false},
      {"[fe80::1]/x", "[fe80::1]", "x", "", false},
      {"HOST/x", "HOST", "x", "", false},
      {withDigest.c_str(), "a.b", "c", "", true},
      {withBoth.c_str(), "a.b:5", "c/d", "v1", true},
  };
  for (const auto& expected : cases) {
    auto parsed = parseReference(expected.text);
    ASSERT_TRUE(parsed) << expected.text << ": " << parsed.error().text();
    EXPECT_EQ(parsed->host, expected.host) << expected.text;
    EXPECT_EQ(parsed->path, expected.path) << expected.text;
    EXPECT_EQ(parsed->tag, expected.tag) << expected.text;
    EXPECT_EQ(parsed->digest, expected.digest ? kDigest : "") << expected.text;
  }
}

TEST(Reference, Refused) {
  for (const std::string& text :
       {std::string(), std::string("Nginx"), std::string("a//b"), std::string("/a"), std::string("a/"), std::string("a:"),
        std::string("a:-x"), std::string("a@"), std::string("a@sha256:12"), "a@sha512:" + std::string(128, 'a'),
        std::string("a___b"), std::string("a..b"), std::string("-a"), std::string("a-"), std::string("host:0/x"),
        std::string("host:99999/x"), std::string("[::g]:1/x"), std::string("[::1/x"), std::string("a b"), std::string("a\n"),
        std::string("http://a.b/c"), "a.b/c:" + std::string(129, 't'), std::string(300, 'a'), std::string(64, 'a'),
        std::string("a.b/../c"), std::string("-.b/c"), std::string("a\0b", 3)}) {
    auto parsed = parseReference(text);
    ASSERT_FALSE(parsed) << text;
    EXPECT_EQ(parsed.error().code(), Code::InvalidArgument);
  }
}

TEST(Reference, QualifyAndMirrors) {
  auto names = qualify(*parseReference("nginx"), {"docker.io", "quay.io/team"});
  ASSERT_EQ(names.size(), 2U);
  EXPECT_EQ(names[0].tagged(), "docker.io/library/nginx:latest");
  EXPECT_EQ(names[1].tagged(), "quay.io/team/nginx:latest");
  names = qualify(*parseReference("a.b/c:t@" + kDigest), {});
  ASSERT_EQ(names.size(), 1U);
  EXPECT_EQ(names[0].tag, "");
  EXPECT_EQ(names[0].digested(names[0].digest), "a.b/c@" + kDigest);

  Settings settings;
  settings.registryMirrors = {{"docker.io", "127.0.0.1:5000"}, {"docker.io/library", "m.example:5/hub"}, {"docker", "no"}};
  settings.insecureRegistries = {"plain.example"};
  auto found = endpoints(qualify(*parseReference("nginx"), {"docker.io"})[0], settings);
  ASSERT_EQ(found.size(), 3U);
  EXPECT_EQ(found[0].host + "/" + found[0].path, "m.example:5/hub/nginx");
  EXPECT_TRUE(found[0].mirror);
  EXPECT_EQ(found[1].host + "/" + found[1].path, "127.0.0.1:5000/library/nginx");
  EXPECT_TRUE(found[1].loopback);
  EXPECT_EQ(found[2].host, "registry-1.docker.io");
  EXPECT_FALSE(found[2].mirror || found[2].loopback || found[2].plainHttp);
  EXPECT_TRUE(endpoints(*parseReference("plain.example/x"), settings)[0].plainHttp);
  EXPECT_TRUE(endpoints(*parseReference("[::1]:1/x"), settings)[0].loopback);
  EXPECT_FALSE(endpoints(*parseReference("127.evil.example/x"), settings)[0].loopback);
}

TEST(Challenge, Table) {
  auto found = parseChallenges(R"(Bearer realm="https://auth.example/token",service="reg, \"x\"", scope="repository:a/b:pull,push")");
  ASSERT_EQ(found.size(), 1U);
  EXPECT_EQ(found[0].scheme, "bearer");
  EXPECT_EQ(found[0].parameters["realm"], "https://auth.example/token");
  EXPECT_EQ(found[0].parameters["service"], "reg, \"x\"");
  EXPECT_EQ(found[0].parameters["scope"], "repository:a/b:pull,push");
  found = parseChallenges("BASIC Realm=here, Bearer realm=\"x\"");
  ASSERT_EQ(found.size(), 2U);
  EXPECT_EQ(found[0].parameters["realm"], "here");
  EXPECT_EQ(found[1].scheme, "bearer");
  EXPECT_TRUE(parseChallenges("").empty());
  EXPECT_TRUE(parseChallenges("=,=").empty());
  EXPECT_TRUE(parseChallenges("Bearer realm=\"open")[0].parameters.empty());
  EXPECT_LE(parseChallenges(std::string(100000, ',') + "x").size(), 1U);
}

std::string layerJson(const std::string& digest, const std::string& more = "") {
  return R"({"mediaType":"application/vnd.oci.image.layer.v1.tar+gzip","digest":")" + digest + R"(","size":10)" + more + "}";
}
std::string manifestJson(const std::string& config, const std::string& layers) {
  return R"({"schemaVersion":2,"config":)" + config + R"(,"layers":[)" + layers + R"(],"annotations":{"a":"b"}})";
}
const std::string kConfig = R"({"mediaType":"application/vnd.oci.image.config.v1+json","digest":")" + kDigest + R"(","size":5})";

TEST(Manifest, ImageAndIndex) {
  auto manifest = parseManifest(manifestJson(kConfig, layerJson(kOtherDigest)), "application/vnd.oci.image.manifest.v1+json");
  ASSERT_TRUE(manifest) << manifest.error().text();
  EXPECT_FALSE(manifest->isIndex);
  EXPECT_EQ(manifest->config.digest, kDigest);
  ASSERT_EQ(manifest->layers.size(), 1U);
  EXPECT_EQ(manifest->layers[0].size, 10);
  EXPECT_EQ(manifest->annotations["a"], "b");

  auto entry = [](const char* os, const char* arch, const char* variant, char letter) {
    return layerJson("sha256:" + std::string(64, letter), std::string(R"(,"platform":{"os":")") + os + R"(","architecture":")" +
                                                              arch + R"(","variant":")" + variant + "\"}");
  };
  auto index = parseManifest(R"({"schemaVersion":2,"manifests":[)" + entry("unknown", "unknown", "", 'f') + "," +
                                 entry("linux", "arm", "v6", 'a') + "," + entry("linux", "arm", "v7", 'b') + "," +
                                 entry("linux", "amd64", "", 'c') + "]}", "application/vnd.oci.image.index.v1+json; charset=x");
  ASSERT_TRUE(index) << index.error().text();
  EXPECT_EQ(choosePlatform(*index, {"linux", "amd64", ""})->digest[7], 'c');
  EXPECT_EQ(choosePlatform(*index, {"linux", "arm", "v7"})->digest[7], 'b');
  EXPECT_EQ(choosePlatform(*index, {"linux", "arm", "v6"})->digest[7], 'a');
  auto none = choosePlatform(*index, {"linux", "s390x", ""});
  ASSERT_FALSE(none);
  EXPECT_EQ(none.error().code(), Code::PlatformUnavailable);
  EXPECT_NE(none.error().text().find("linux/arm/v7"), std::string::npos);
}

TEST(Manifest, Refused) {
  auto codeOf = [](const std::string& text, std::string_view type = "") {
    auto parsed = parseManifest(text, type);
    return parsed ? Code::Internal : parsed.error().code();
  };
  EXPECT_EQ(codeOf(""), Code::ImageInvalid);
  EXPECT_EQ(codeOf("[]"), Code::ImageInvalid);
  EXPECT_EQ(codeOf("{}"), Code::ImageInvalid);
  EXPECT_EQ(codeOf(std::string(100000, '[')), Code::ImageInvalid);
  EXPECT_EQ(codeOf(R"({"schemaVersion":1,"fsLayers":[]})"), Code::NotSupported);
  EXPECT_EQ(codeOf(R"({"manifests":[],"layers":[],"config":{}})"), Code::ImageInvalid);
  EXPECT_EQ(codeOf(manifestJson(kConfig, ""), "application/vnd.oci.image.index.v1+json"), Code::ImageInvalid);
  EXPECT_EQ(codeOf(manifestJson(kConfig, layerJson("md5:1"))), Code::ImageInvalid);
  EXPECT_EQ(codeOf(manifestJson(kConfig, layerJson("sha256:../../x"))), Code::ImageInvalid);
  EXPECT_EQ(codeOf(manifestJson(R"({"mediaType":"application/vnd.cncf.helm.config.v1+json","digest":")" + kDigest + R"(","size":1})", "")),
            Code::NotSupported);
  EXPECT_EQ(codeOf(manifestJson(R"({"digest":")" + kDigest + R"(","size":-1})", "")), Code::ImageInvalid);
  std::string many;
  for (int i = 0; i < 501; ++i) many += (i == 0 ? "" : ",") + layerJson(kDigest);
  EXPECT_EQ(codeOf(manifestJson(kConfig, many)), Code::ImageInvalid);
}

TEST(Manifest, Config) {
  ImageRecord image;
  auto read = readConfig(R"({"os":"linux","architecture":"amd64","rootfs":{"type":"layers","diff_ids":[")" + kDigest +
                             R"("]},"config":{"User":"1:2","Env":["A=b"],"Entrypoint":null,"Cmd":["sh","-c"],"Labels":{"k":"v"},
      "WorkingDir":"/w","Volumes":{"/v":{}},"StopSignal":"SIGUSR1"}})", image);
  ASSERT_TRUE(read) << read.error().text();
  EXPECT_EQ(image.diffIds, std::vector<std::string>{kDigest});
  EXPECT_EQ(image.user, "1:2");
  EXPECT_EQ(image.command, (std::vector<std::string>{"sh", "-c"}));
  EXPECT_TRUE(image.entrypoint.empty());
  EXPECT_EQ(image.volumes, std::vector<std::string>{"/v"});
  EXPECT_EQ(image.labels["k"], "v");
  EXPECT_FALSE(readConfig("{}", image));
  EXPECT_FALSE(readConfig(R"({"rootfs":{"diff_ids":["x"]}})", image));
  EXPECT_FALSE(readConfig(R"({"rootfs":{"diff_ids":[]},"config":{"Cmd":[1]}})", image));
}

std::string gzip(const std::string& text) {
  z_stream stream{};
  deflateInit2(&stream, 6, Z_DEFLATED, 15 + 16, 8, Z_DEFAULT_STRATEGY);
  std::string out(deflateBound(&stream, text.size()) + 64, '\0');
  stream.next_in = reinterpret_cast<Bytef*>(const_cast<char*>(text.data()));
  stream.avail_in = static_cast<uInt>(text.size());
  stream.next_out = reinterpret_cast<Bytef*>(out.data());
  stream.avail_out = static_cast<uInt>(out.size());
  deflate(&stream, Z_FINISH);
  out.resize(stream.total_out);
  deflateEnd(&stream);
  return out;
}

Result<std::string> inflateAll(const std::string& data, std::size_t step) {
  std::string out;
  auto decompressor = makeDecompressor(data, [&](Block block) -> Status {
    out += block.view();
    return {};
  });
  for (std::size_t at = 0; at < data.size(); at += step)
    USERPOD_CHECK(decompressor->feed(std::string_view(data).substr(at, step)));
  USERPOD_CHECK(decompressor->finish());
  return out;
}

TEST(Decompress, Formats) {
  std::string text;
  for (int i = 0; i < 200000; ++i) text += std::to_string(i * 7919 % 1000003);
  std::string zeros(3 << 20, '\0');
  std::string zstd(ZSTD_compressBound(text.size()), '\0');
  zstd.resize(ZSTD_compress(zstd.data(), zstd.size(), text.data(), text.size(), 3));
  for (std::size_t step : {std::size_t{1} << 30, std::size_t{1000}, std::size_t{7}}) {
    EXPECT_EQ(*inflateAll(gzip(text), step), text);
    EXPECT_EQ(*inflateAll(gzip(zeros), step), zeros);
    EXPECT_EQ(*inflateAll(gzip(text) + gzip("") + gzip(zeros), step), text + zeros);
    EXPECT_EQ(*inflateAll(zstd + zstd, step), text + text);
    EXPECT_EQ(*inflateAll(text, step), text);
  }
  EXPECT_EQ(*inflateAll("", 1), "");
}

TEST(Decompress, Damaged) {
  std::string text(100000, 'x');
  std::string good = gzip(text);
  auto codeOf = [](const std::string& data) {
    auto done = inflateAll(data, 4096);
    return done ? Code::Internal : done.error().code();
  };
  for (std::size_t cut = 2; cut < good.size(); cut += 3) EXPECT_EQ(codeOf(good.substr(0, cut)), Code::ImageInvalid) << cut;
  EXPECT_EQ(codeOf(good + "garbage that is no member"), Code::ImageInvalid);
  std::string flipped = good;
  flipped[flipped.size() - 6] ^= 1;  // of the checksum
  EXPECT_EQ(codeOf(flipped), Code::ImageInvalid);
  std::string zstd(ZSTD_compressBound(text.size()), '\0');
  zstd.resize(ZSTD_compress(zstd.data(), zstd.size(), text.data(), text.size(), 3));
  EXPECT_EQ(codeOf(zstd.substr(0, zstd.size() - 2)), Code::ImageInvalid);
}

TEST(Digest, Known) {
  EXPECT_EQ(sha256Digest("abc"), "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
}

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
  Tar& link(const std::string& path, const std::string& target) { return add(path, AE_IFLNK, {.mode = 0777, .link = target}); }
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
    UnpackBudget budget(settings_);
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
  Settings settings_;
};

TEST_F(ExtractorTest, Ordinary) {
  Tar tar;
  std::string longName(200, 'n');
  tar.add("./", AE_IFDIR, {.mode = 0751, .time = 5}).directory("usr").directory("usr/bin").link("bin", "usr/bin");
  tar.file("bin/sh", std::string(100000, 's')).add("/usr/bin/su", AE_IFREG, {.mode = 04755, .data = "su"});
  tar.hardLink("usr/bin/su2", "usr/bin/su").add("tmp", AE_IFDIR, {.mode = 01777, .time = 77}).add("tmp/f", AE_IFIFO, {.mode = 0600});
  tar.file("deep/er/" + longName + "/file").file("gr\xc3\xb6\xc3\x9f", "utf8").file("gro\xcc\x88", "nfd").file("latin\xf6", "latin");
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
  tar.file("a", "1").file("a", "2").directory("b").file("b/c").file("b", "now a file").file("d").directory("d").file("d/e");
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
  tar.file("dir/.wh.gone", "").file("dir/.wh..wh..opq", "").file("dir/kept").file(".wh..wh.plnk", "").file(".wh.kept", "");
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
  std::string options = "userxattr,lowerdir=" + base_ + "/lower,upperdir=" + base_ + "/upper,workdir=" + base_ + "/work";
  if (::mount("overlay", root_.c_str(), "overlay", 0, options.c_str()) < 0) GTEST_SKIP() << "no overlay in " << base_;
  Tar tar;
  tar.file("dir/.wh.gone", "").file("dir/.wh.gone", "").file("kept").file(".wh.kept", "").file(".wh.later", "").file("later", "new");
  tar.file(".wh.again", "").directory("again").directory("both").file(".wh.both", "").file(".wh.parent", "").file("parent/f");
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
  EXPECT_EQ(codeOf(Tar().add("f", AE_IFREG, {.attributes = {{"user.overlay.opaque", "y"}}}).bytes()), Code::ImageInvalid);
  EXPECT_EQ(codeOf(Tar().add("g", AE_IFDIR, {.attributes = {{"user.overlay.redirect", "/"}}}).bytes()), Code::ImageInvalid);
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
  settings_.imageSizeLimit = 1000;
  settings_.imageEntriesLimit = 10;
  auto tooLarge = extract(Tar().file("a", std::string(600, 'x')).file("b", std::string(600, 'x')).bytes());
  ASSERT_FALSE(tooLarge);
  EXPECT_EQ(tooLarge.error().code(), Code::LimitsExceeded);
  EXPECT_TRUE(tooLarge.error().text().starts_with("/b: ")) << tooLarge.error().text();
  EXPECT_NE(tooLarge.error().text().find("image-size-limit"), std::string::npos);
  Tar many;
  for (int i = 0; i < 11; ++i) many.file("same", "x");
  EXPECT_EQ(codeOf(many.bytes()), Code::LimitsExceeded);
  EXPECT_EQ(codeOf(Tar().file("1/2/3/4/5/6/7/8/9/10/11").bytes()), Code::LimitsExceeded);
  settings_.imageSizeLimit = settings_.imageEntriesLimit = 0;
  EXPECT_TRUE(extract(many.bytes()));
}

TEST_F(ExtractorTest, HeadersWithoutEnd) {
  // A sparse map of three million holes, which libarchive would keep in memory.
  std::string map = "3000000\n";
  for (int i = 0; i < 3000000; ++i) map += "0\n0\n";
  map.resize((map.size() + 511) / 512 * 512);
  std::string tar = Tar().file("fine", std::string(20 << 20, 'x')).file("also-fine", "x").bytes();
  EXPECT_TRUE(extract(tar, 1 << 20));
  std::string records = "22 GNU.sparse.major=1\n22 GNU.sparse.minor=0\n21 GNU.sparse.name=s\n25 GNU.sparse.realsize=9\n";
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
  UnpackBudget budget(settings_);
  EXPECT_TRUE(budget.checkRatio(1, 200 << 20));
  EXPECT_TRUE(budget.checkRatio(2 << 20, 300 << 20));
  auto bomb = budget.checkRatio(1 << 20, 300 << 20);
  ASSERT_FALSE(bomb);
  EXPECT_NE(bomb.error().text().find("image-ratio-limit"), std::string::npos);
  EXPECT_FALSE(budget.takeBytes(INT64_MAX));
}

TEST_F(ExtractorTest, SourceFails) {
  auto root = openFile(root_, O_RDONLY | O_DIRECTORY);
  UnpackBudget budget(settings_);
  auto done = extractTar(root->get(), []() -> Result<std::string_view> { return Error(Code::DigestMismatch, "other bytes"); }, budget);
  ASSERT_FALSE(done);
  EXPECT_EQ(done.error().code(), Code::DigestMismatch);
}

TEST_F(ExtractorTest, Store) {
  std::string path = base_ + "/images.db";
  ImageRecord image;
  image.id = kDigest;
  image.config = std::string("{\0}", 3);
  image.diffIds = {kDigest, kOtherDigest, kDigest};
  image.repoTags = {"a.b/c:1"};
  image.repoDigests = {"a.b/c@" + kDigest};
  {
    auto store = store::ImageStore::open(path);
    ASSERT_TRUE(store) << store.error().text();
    ASSERT_TRUE((*store)->commit(image, {{kDigest, "aa", 5, 1}, {kOtherDigest, "bb", 7, 2}}));
    ImageRecord second = image;
    second.id = kOtherDigest;
    second.diffIds = {kOtherDigest};
    second.repoDigests.clear();
    ASSERT_TRUE((*store)->commit(second, {}));
    EXPECT_TRUE((*store)->removeImage("unknown"));
  }
  EXPECT_EQ(store::layerTotals(path)->bytes, 12);
  auto store = store::ImageStore::open(path);
  auto content = (*store)->load();
  ASSERT_TRUE(content);
  ASSERT_EQ(content->images.size(), 2U);
  EXPECT_TRUE(content->images[0].repoTags.empty());  // the second took the tag
  EXPECT_EQ(content->images[0].config, image.config);
  EXPECT_EQ(content->images[1].repoTags, image.repoTags);
  EXPECT_TRUE((*store)->unreferencedLayers()->empty());
  ASSERT_TRUE((*store)->removeImage(kDigest));
  auto loose = (*store)->unreferencedLayers();
  ASSERT_EQ(loose->size(), 1U);
  EXPECT_EQ((*loose)[0].directory, "aa");
  EXPECT_TRUE((*store)->removeLayer(kDigest));
  EXPECT_FALSE((*store)->removeLayer(kOtherDigest));  // in use
  store->reset();
  ASSERT_TRUE(writeFile(path, "this was a database once, and is long enough to look like one by its size"));
  auto anew = store::ImageStore::open(path);
  ASSERT_TRUE(anew) << anew.error().text();
  EXPECT_TRUE((*anew)->load()->images.empty());
  EXPECT_TRUE(pathExists(path + ".damaged"));
}

}  // namespace
}  // namespace userpod::images

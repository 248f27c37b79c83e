#include <fmt/core.h>
#include <gtest/gtest.h>
#include <zlib.h>
#include <zstd.h>

#include <nlohmann/json.hpp>

#include "daemon/images/digest.hpp"
#include "daemon/images/manifest.hpp"
#include "daemon/images/reference.hpp"
#include "daemon/images/unpack/decompress.hpp"

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
  for (const std::string& text : {std::string(),
                                  std::string("Nginx"),
                                  std::string("a//b"),
                                  std::string("/a"),
                                  std::string("a/"),
                                  std::string("a:"),
                                  std::string("a:-x"),
                                  std::string("a@"),
                                  std::string("a@sha256:12"),
                                  "a@sha512:" + std::string(128, 'a'),
                                  std::string("a___b"),
                                  std::string("a..b"),
                                  std::string("-a"),
                                  std::string("a-"),
                                  std::string("host:0/x"),
                                  std::string("host:99999/x"),
                                  std::string("[::g]:1/x"),
                                  std::string("[::1/x"),
                                  std::string("a b"),
                                  std::string("a\n"),
                                  std::string("http://a.b/c"),
                                  "a.b/c:" + std::string(129, 't'),
                                  std::string(300, 'a'),
                                  std::string(64, 'a'),
                                  std::string("a.b/../c"),
                                  std::string("-.b/c"),
                                  std::string("a\0b", 3)}) {
    auto parsed = parseReference(text);
    ASSERT_FALSE(parsed) << text;
    EXPECT_EQ(parsed.error().code(), Code::InvalidArgument);
  }
}

std::string layerJson(const std::string& digest, const std::string& more = "") {
  return R"({"mediaType":"application/vnd.oci.image.layer.v1.tar+gzip","digest":")" + digest + R"(","size":10)" + more +
         "}";
}
std::string manifestJson(const std::string& config, const std::string& layers) {
  return R"({"schemaVersion":2,"config":)" + config + R"(,"layers":[)" + layers + R"(],"annotations":{"a":"b"}})";
}
const std::string kConfig =
    R"({"mediaType":"application/vnd.oci.image.config.v1+json","digest":")" + kDigest + R"(","size":5})";

TEST(Manifest, ImageAndIndex) {
  auto manifest =
      parseManifest(manifestJson(kConfig, layerJson(kOtherDigest)), "application/vnd.oci.image.manifest.v1+json");
  ASSERT_TRUE(manifest) << manifest.error().text();
  EXPECT_EQ(manifest->kind, Manifest::Kind::Image);
  EXPECT_EQ(manifest->config.digest, kDigest);
  ASSERT_EQ(manifest->layers.size(), 1U);
  EXPECT_EQ(manifest->layers[0].size, 10);
  EXPECT_EQ(manifest->annotations["a"], "b");

  auto entry = [](const char* os, const char* arch, const char* variant, char letter) {
    return layerJson("sha256:" + std::string(64, letter), std::string(R"(,"platform":{"os":")") + os +
                                                              R"(","architecture":")" + arch + R"(","variant":")" +
                                                              variant + "\"}");
  };
  auto index = parseManifest(R"({"schemaVersion":2,"manifests":[)" + entry("unknown", "unknown", "", 'f') + "," +
                                 entry("linux", "arm", "v6", 'a') + "," + entry("linux", "arm", "v7", 'b') + "," +
                                 entry("linux", "amd64", "", 'c') + "]}",
                             "application/vnd.oci.image.index.v1+json; charset=x");
  ASSERT_TRUE(index) << index.error().text();
  EXPECT_EQ(choosePlatform(*index, {"linux", "amd64", ""})->digest[7], 'c');
  EXPECT_EQ(choosePlatform(*index, {"linux", "arm", "v7"})->digest[7], 'b');
  EXPECT_EQ(choosePlatform(*index, {"linux", "arm", "v6"})->digest[7], 'a');
  auto none = choosePlatform(*index, {"linux", "s390x", ""});
  ASSERT_FALSE(none);
  EXPECT_EQ(none.error().code(), Code::PlatformUnavailable);
  EXPECT_NE(none.error().text().find("linux/arm/v7"), std::string::npos);
}

TEST(Manifest, Artifact) {
  std::string title = R"(,"annotations":{"org.opencontainers.image.title":"dir/a.txt"})";
  auto manifest = parseManifest(
      manifestJson(R"({"mediaType":"application/vnd.oci.empty.v1+json","digest":")" + kDigest + R"(","size":2})",
                   layerJson(kOtherDigest, title) + "," + layerJson(kDigest)),
      "");
  ASSERT_TRUE(manifest) << manifest.error().text();
  EXPECT_EQ(manifest->kind, Manifest::Kind::Artifact);
  EXPECT_EQ(manifest->artifactType, "application/vnd.oci.empty.v1+json");
  EXPECT_EQ(artifactFile(manifest->layers[0]), "dir/a.txt");
  EXPECT_EQ(artifactFile(manifest->layers[1]), kDigest);
  ImageRecord record;
  readArtifact(*manifest, record);
  EXPECT_TRUE(record.artifact);
  EXPECT_EQ(record.diffIds,
            (std::vector<std::string>{"file:" + kOtherDigest + ":dir/a.txt", "file:" + kDigest + ":" + kDigest}));
}

// As distribution signs it: the payload is the document without its signatures.
std::string schema1(const std::string& fields, bool withSignature) {
  std::string payload = "{" + fields + "\n}";
  if (!withSignature) return payload;
  // {"formatLength":N,"formatTail":"Cn0"} ("\n}"), in base64url.
  std::string header = fmt::format(R"({{"formatLength":{},"formatTail":"Cn0"}})", payload.size() - 2);
  static constexpr char kDigits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
  std::string encoded;
  for (std::size_t at = 0; at < header.size(); at += 3) {
    std::uint32_t bits = 0;
    std::size_t count = std::min<std::size_t>(3, header.size() - at);
    for (std::size_t i = 0; i < 3; ++i)
      bits = bits << 8 | (i < count ? static_cast<unsigned char>(header[at + i]) : 0U);
    for (std::size_t i = 0; i <= count; ++i) encoded += kDigits[bits >> (18 - 6 * i) & 63];
  }
  return payload.substr(0, payload.size() - 2) + R"(,"signatures":[{"protected":")" + encoded + "\"}]}";
}

TEST(Manifest, Schema1) {
  std::string fields =
      R"("schemaVersion":1,"architecture":"amd64","fsLayers":[{"blobSum":")" + kOtherDigest + R"("},{"blobSum":")" +
      kDigest + R"("},{"blobSum":")" + kDigest +
      R"("}],"history":[{"v1Compatibility":"{\"id\":\"3\",\"os\":\"linux\",\"architecture\":\"amd64\",)" +
      R"(\"config\":{\"Cmd\":[\"sh\"]},\"created\":\"t3\"}"},)" +
      R"({"v1Compatibility":"{\"throwaway\":true,\"container_config\":{\"Cmd\":[\"x\",\"y\"]}}"},)" +
      R"({"v1Compatibility":"{\"id\":\"1\",\"created\":\"t1\"}"}])";
  auto signedOne = schema1(fields, true);
  auto manifest = parseManifest(signedOne, "application/vnd.docker.distribution.manifest.v1+prettyjws");
  ASSERT_TRUE(manifest) << manifest.error().text();
  EXPECT_EQ(manifest->kind, Manifest::Kind::Schema1);
  ASSERT_EQ(manifest->layers.size(), 2U);  // the lowest first, the empty one left out
  EXPECT_EQ(manifest->layers[0].digest, kDigest);
  EXPECT_EQ(manifest->layers[1].digest, kOtherDigest);
  EXPECT_EQ(manifest->layers[0].size, -1);
  EXPECT_EQ(signedManifest(signedOne), schema1(fields, false));
  EXPECT_EQ(signedManifest("{}"), "{}");
  auto config = schema1Config(signedOne, {kOtherDigest, kDigest});
  ASSERT_TRUE(config) << config.error().text();
  ImageRecord record;
  ASSERT_TRUE(readConfig(*config, record));
  EXPECT_EQ(record.diffIds, (std::vector<std::string>{kOtherDigest, kDigest}));
  EXPECT_EQ(record.command, std::vector<std::string>{"sh"});
  EXPECT_EQ(record.os, "linux");
  auto object = nlohmann::json::parse(*config);
  EXPECT_FALSE(object.contains("id"));
  ASSERT_EQ(object["history"].size(), 3U);
  EXPECT_EQ(object["history"][1]["created_by"], "x y");
  EXPECT_EQ(object["history"][1]["empty_layer"], true);
  EXPECT_EQ(object["history"][0]["created"], "t1");
}

// A manifest of another kind, with a "signature" that says it is what is signed, and fields that would be read instead.
TEST(Manifest, WhatIsNotSignedIsNotRead) {
  auto honest = manifestJson(kConfig, layerJson(kOtherDigest));
  auto evil = schema1(honest.substr(1, honest.size() - 2), true);
  evil.insert(evil.size() - 1, R"(,"schemaVersion":1,"fsLayers":[{"blobSum":")" + kDigest +
                                   R"("}],"history":[{"v1Compatibility":"{}"}])");
  ASSERT_EQ(parseManifest(evil, "")->kind, Manifest::Kind::Schema1);
  auto read = parseManifest(signedManifest(evil), "");
  ASSERT_TRUE(read) << read.error().text();
  EXPECT_EQ(read->kind, Manifest::Kind::Image);
  EXPECT_EQ(read->layers[0].digest, kOtherDigest);
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
  EXPECT_EQ(codeOf(R"({"schemaVersion":1,"fsLayers":[]})"), Code::ImageInvalid);
  EXPECT_EQ(codeOf(R"({"manifests":[],"layers":[],"config":{}})"), Code::ImageInvalid);
  EXPECT_EQ(codeOf(manifestJson(kConfig, ""), "application/vnd.oci.image.index.v1+json"), Code::ImageInvalid);
  EXPECT_EQ(codeOf(manifestJson(kConfig, layerJson("md5:1"))), Code::ImageInvalid);
  EXPECT_EQ(codeOf(manifestJson(kConfig, layerJson("sha256:../../x"))), Code::ImageInvalid);
  EXPECT_EQ(
      codeOf(manifestJson(
          R"({"mediaType":"application/vnd.cncf.helm.config.v1+json","digest":")" + kDigest + R"(","size":1})", "")),
      Code::ImageInvalid);  // an artifact without files
  EXPECT_EQ(codeOf(manifestJson(R"({"digest":")" + kDigest + R"(","size":-1})", "")), Code::ImageInvalid);
  std::string many;
  for (int i = 0; i < 501; ++i) many += (i == 0 ? "" : ",") + layerJson(kDigest);
  EXPECT_EQ(codeOf(manifestJson(kConfig, many)), Code::ImageInvalid);
}

TEST(Manifest, Config) {
  ImageRecord image;
  auto read =
      readConfig(R"({"os":"linux","architecture":"amd64","rootfs":{"type":"layers","diff_ids":[")" + kDigest +
                     R"("]},"config":{"User":"1:2","Env":["A=b"],"Entrypoint":null,"Cmd":["sh","-c"],"Labels":{"k":"v"},
      "WorkingDir":"/w","Volumes":{"/v":{}},"StopSignal":"SIGUSR1"}})",
                 image);
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
  USERPOD_CHECK(decompressor->feed({}));
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
  for (std::size_t cut = 2; cut < good.size(); cut += 3)
    EXPECT_EQ(codeOf(good.substr(0, cut)), Code::ImageInvalid) << cut;
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

}  // namespace
}  // namespace userpod::images

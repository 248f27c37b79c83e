// Pulls from a real registry: tests/testbed/registry, whose address is in USERPOD_REGISTRY. With USERPOD_PULL_BENCH=1
// the large image, timed.
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <chrono>
#include <cstdlib>
#include <nlohmann/json.hpp>
#include <thread>

#include "daemon/images/images.hpp"
#include "daemon/storage/storage.hpp"
#include "daemon/sys/fd.hpp"
#include "daemon/sys/log.hpp"
#include "tests/unit/namespace.hpp"

namespace userpod::images {
namespace {

class PullTest : public ::testing::Test {
 protected:
  void SetUp() override {
    const char* registry = std::getenv("USERPOD_REGISTRY");
    if (registry == nullptr)
      GTEST_SKIP() << "USERPOD_REGISTRY does not name a registry (tests/testbed/registry up DIR --hostile)";
    registry_ = registry;
    static const std::string refused = testing::enterUserNamespace();
    if (!refused.empty()) GTEST_SKIP() << refused;
    base_ = testing::makeTestDirectory();
    paths_.data = base_ + "/data";
    open();
  }
  void TearDown() override {
    images_.reset();
    if (base_.empty()) return;
    EXPECT_TRUE(removeTree(base_));
  }
  void open() {
    images_.reset();
    auto images = Images::open(paths_, settings_, {}, USERPOD_PROGRAMS);
    ASSERT_TRUE(images) << images.error().text();
    images_ = std::move(*images);
  }
  Result<ImageRecord> pull(const std::string& name) { return images_->pull({.reference = registry_ + "/" + name}); }
  Code codeOf(const std::string& name) {
    auto image = pull(name);
    if (!image) std::printf("%s: %s\n", name.c_str(), image.error().text().c_str());
    return image ? Code::Internal : image.error().code();
  }
  std::size_t directories() {
    std::size_t count = 0;
    for (const auto& image : images_->list()) count += images_->layers(image->id)->size();
    return count;
  }

  std::string registry_, base_;
  Paths paths_;
  Settings settings_;
  std::unique_ptr<Images> images_;
};

TEST_F(PullTest, FindAndRemove) {
  std::string name = registry_ + "/test/busybox";
  auto image = pull("test/busybox");
  ASSERT_TRUE(image) << image.error().text();
  EXPECT_EQ(image->repoTags, std::vector<std::string>{name + ":latest"});
  ASSERT_EQ(image->repoDigests.size(), 1U);
  EXPECT_GT(image->size, 100000);
  std::string hex = image->id.substr(7);
  for (const auto& reference : {image->id, hex, hex.substr(0, 8), name, name + ":latest", image->repoDigests[0],
                                name + ":latest" + image->repoDigests[0].substr(name.size())})
    EXPECT_TRUE(images_->find(reference)) << reference;
  for (const std::string& reference :
       {std::string("busybox"), std::string("ffffffff"), name + ":none", std::string("%%")})
    EXPECT_FALSE(images_->find(reference)) << reference;
  open();
  auto again = images_->find(name);
  ASSERT_TRUE(again);
  EXPECT_EQ(again->command, image->command);
  EXPECT_EQ(again->diffIds, image->diffIds);
  auto layers = images_->layers(image->id);
  ASSERT_TRUE(layers);
  struct stat info{};
  EXPECT_EQ(::stat((paths_.data + "/layers/" + layers->front() + "/bin/busybox").c_str(), &info), 0);
  EXPECT_TRUE(images_->remove(image->id));
  EXPECT_TRUE(images_->remove(image->id));
  EXPECT_FALSE(images_->find(name));
  EXPECT_FALSE(pathExists(paths_.data + "/layers/" + layers->front()));
}

TEST_F(PullTest, ManyAtOnce) {
  std::vector<std::thread> threads;
  for (int i = 0; i < 8; ++i)
    threads.emplace_back([&] {
      auto image = pull("test/busybox:1");
      EXPECT_TRUE(image) << image.error().text();
    });
  for (auto& thread : threads) thread.join();
  EXPECT_EQ(images_->list().size(), 1U);
  auto other = pull("test/busybox:2");
  ASSERT_TRUE(other) << other.error().text();
  EXPECT_EQ(images_->list().size(), 2U);
}

TEST_F(PullTest, Kinds) {
  for (const char* name : {"test/multi", "test/schema2", "test/schema2-list", "test/many-layers", "test/config"}) {
    auto image = pull(name);
    EXPECT_TRUE(image) << image.error().text();
  }
  EXPECT_EQ(codeOf("test/arm64-only"), Code::PlatformUnavailable);
  EXPECT_EQ(codeOf("test/nothing"), Code::ManifestUnknown);
  EXPECT_EQ(codeOf("test/busybox:none"), Code::ManifestUnknown);
  auto refused = images_->pull({.reference = "127.0.0.1:1/x"});
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code(), Code::RegistryUnreachable);
  EXPECT_NE(refused.error().text().find("127.0.0.1:1"), std::string::npos);
}

TEST_F(PullTest, Hostile) {
  const std::pair<const char*, Code> refused[] = {
      {"wrong-diffid", Code::DigestMismatch}, {"few-diffids", Code::ImageInvalid},
      {"wrong-digest", Code::DigestMismatch}, {"truncated", Code::ImageInvalid},
      {"dotdot", Code::ImageInvalid},         {"symlink", Code::ImageInvalid},
      {"whiteout", Code::ImageInvalid}};
  for (const auto& [name, code] : refused) EXPECT_EQ(codeOf(std::string("hostile/") + name), code) << name;
  EXPECT_NE(codeOf("hostile/not-gzip"), Code::Internal);  // no tar, or another DiffID: what is seen first
  for (const char* name : {"absolute", "symlink-layers", "hardlink", "device"}) codeOf(std::string("hostile/") + name);
  EXPECT_FALSE(pathExists("/var/tmp/userpod-escape"));
  EXPECT_FALSE(pathExists(base_ + "/escape"));
  EXPECT_FALSE(pathExists(paths_.data + "/escape"));
  EXPECT_FALSE(pathExists("/absolute"));
}

TEST_F(PullTest, Cancel) {
  std::stop_source stop;
  PullRequest request{.reference = registry_ + "/test/big", .stop = stop.get_token()};
  request.progress = [&](const PullProgress& progress) {
    if (progress.done > 0) stop.request_stop();
  };
  auto image = images_->pull(request);
  ASSERT_FALSE(image);
  EXPECT_EQ(image.error().code(), Code::Canceled);
  EXPECT_TRUE(images_->list().empty());
  auto again = pull("test/big");
  EXPECT_TRUE(again) << again.error().text();
}

TEST_F(PullTest, Token) {
  const char* token = std::getenv("USERPOD_TOKEN_REGISTRY");
  if (token == nullptr) GTEST_SKIP() << "USERPOD_TOKEN_REGISTRY does not name a registry";
  std::string host = token;
  auto open = images_->pull({.reference = host + "/test/busybox"});
  EXPECT_TRUE(open) << open.error().text();
  auto without = images_->pull({.reference = host + "/private/test/busybox"});
  ASSERT_FALSE(without);
  EXPECT_EQ(without.error().code(), Code::RegistryAuthRequired) << without.error().text();
  auto wrong = images_->pull({.reference = host + "/private/test/busybox", .credentials = {"test", "guess"}});
  ASSERT_FALSE(wrong);
  EXPECT_EQ(wrong.error().code(), Code::RegistryDenied) << wrong.error().text();
  EXPECT_EQ(wrong.error().text().find("guess"), std::string::npos);
  auto right = images_->pull({.reference = host + "/private/test/busybox", .credentials = {"test", "secret"}});
  EXPECT_TRUE(right) << right.error().text();
}

std::string typeOf(mode_t mode) {
  return S_ISREG(mode) ? "file" : S_ISDIR(mode) ? "dir" : S_ISLNK(mode) ? "symlink" : S_ISFIFO(mode) ? "fifo" : "other";
}

void expectEntry(const std::string& root, const std::string& name, const nlohmann::json& expected) {
  std::string path = root + "/" + name;
  struct stat info{};
  ASSERT_EQ(::lstat(path.c_str(), &info), 0) << name;
  EXPECT_EQ(typeOf(info.st_mode), expected["type"]) << name;
  EXPECT_EQ(info.st_mode & 07777, expected["mode"].get<mode_t>()) << name;
  EXPECT_EQ(info.st_uid, expected["uid"].get<uid_t>()) << name;
  EXPECT_EQ(info.st_gid, expected["gid"].get<gid_t>()) << name;
  if (expected.contains("content")) {
    EXPECT_EQ(*readFile(path), expected["content"]) << name;
  }
  if (expected.contains("size")) {
    EXPECT_EQ(info.st_size, expected["size"].get<off_t>()) << name;
  }
  if (expected.contains("same")) {
    struct stat other{};
    ASSERT_EQ(::lstat((root + "/" + expected["same"].get<std::string>()).c_str(), &other), 0);
    EXPECT_EQ(info.st_ino, other.st_ino) << name;
  }
  if (expected.contains("target")) {
    char target[4096];
    auto size = ::readlink(path.c_str(), target, sizeof target);
    EXPECT_EQ(std::string(target, static_cast<std::size_t>(std::max<ssize_t>(size, 0))), expected["target"]) << name;
  }
  for (const auto& attribute : expected.value("xattr_names", std::vector<std::string>())) {
    EXPECT_GT(::lgetxattr(path.c_str(), attribute.c_str(), nullptr, 0), 0) << name << " " << attribute;
  }
}

// What tests/testbed/registry says has to be there, seen through a container's mount.
TEST_F(PullTest, Layers) {
  const char* file = std::getenv("USERPOD_LAYERS_JSON");
  if (file == nullptr)
    GTEST_SKIP() << "needs the subordinate ids mapped: tests/integration/unpack_test.py does the same in the node";
  auto expected = nlohmann::json::parse(*readFile(file));
  auto image = pull("test/layers");
  ASSERT_TRUE(image) << image.error().text();
  NodeInside node;
  auto storage = storage::Storage::open(paths_, {}, node);
  ASSERT_TRUE(storage) << storage.error().text();
  auto root = (*storage)->mountContainer("layers", *images_->layers(image->id));
  ASSERT_TRUE(root) << root.error().text();
  for (const auto& [name, entry] : expected["tree"].items()) expectEntry(*root, name, entry);
  for (const auto& name : expected["absent"].get<std::vector<std::string>>())
    EXPECT_FALSE(pathExists(*root + "/" + name)) << name;
  EXPECT_GT((*storage)->imageUsage()->usedBytes, 0U);
  EXPECT_TRUE((*storage)->removeContainer("layers"));
}

TEST_F(PullTest, Large) {
  if (std::getenv("USERPOD_PULL_BENCH") == nullptr) GTEST_SKIP() << "USERPOD_PULL_BENCH is not set";
  for (int i = 0; i < 3; ++i) {
    auto start = std::chrono::steady_clock::now();
    auto since = [&] {
      return std::chrono::duration_cast<std::chrono::milliseconds>(std::chrono::steady_clock::now() - start).count();
    };
    PullRequest request{.reference = registry_ + "/bench/large"};
    std::string stage;
    request.progress = [&](const PullProgress& progress) {
      if (progress.stage != stage)
        std::fprintf(stderr, "%5ld ms %s\n", static_cast<long>(since()), (stage = progress.stage).c_str());
    };
    auto image = images_->pull(request);
    std::fprintf(stderr, "%5ld ms, %ld bytes\n", static_cast<long>(since()),
                 image ? static_cast<long>(image->size) : 0L);
    ASSERT_TRUE(image) << image.error().text();
    ASSERT_TRUE(images_->remove(image->id));
    std::this_thread::sleep_for(std::chrono::seconds(3));
  }
}

}  // namespace
}  // namespace userpod::images

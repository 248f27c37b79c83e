#include "daemon/storage/storage.hpp"

#include <gtest/gtest.h>
#include <sys/stat.h>
#include <sys/xattr.h>

#include "daemon/sys/fd.hpp"
#include "daemon/sys/mount.hpp"
#include "tests/unit/namespace.hpp"

namespace userpod::storage {
namespace {

class StorageTest : public ::testing::Test {
 protected:
  void SetUp() override {
    static const std::string refused = testing::enterUserNamespace();
    if (!refused.empty()) GTEST_SKIP() << refused;
    base_ = testing::makeTestDirectory();
    paths_.data = base_ + "/data";
    auto storage = Storage::open(paths_);
    if (!storage) GTEST_SKIP() << storage.error().text();
    storage_ = std::move(*storage);
  }
  void TearDown() override {
    if (storage_) {
      for (const auto& id : storage_->containers()) EXPECT_TRUE(storage_->removeContainer(id));
    }
    if (base_.empty()) return;
    EXPECT_TRUE(removeTree(base_));
  }
  void layer(const std::string& name, const std::string& file, const std::string& text) {
    ASSERT_TRUE(makeDirectories(paths_.data + "/layers/" + name));
    ASSERT_TRUE(writeFile(paths_.data + "/layers/" + name + "/" + file, text));
  }

  std::string base_;
  Paths paths_;
  std::unique_ptr<Storage> storage_;
};

TEST_F(StorageTest, Lifecycle) {
  layer("low", "a", "low");
  layer("low", "b", "low");
  layer("top", "a", "top");
  ASSERT_EQ(::mknod((paths_.data + "/layers/top/b").c_str(), S_IFCHR, 0), 0);
  ASSERT_EQ(::chmod((paths_.data + "/layers/low").c_str(), 0711), 0);
  ASSERT_EQ(::setxattr((paths_.data + "/layers/low").c_str(), "user.userpod.root", "y", 1, 0), 0);
  auto root = storage_->mountContainer("c1", {"low", "top"});
  ASSERT_TRUE(root) << root.error().text();
  EXPECT_EQ(*root, paths_.data + "/containers/c1/merged");
  EXPECT_EQ(*readFile(*root + "/a"), "top");
  EXPECT_FALSE(pathExists(*root + "/b"));
  struct stat info{};
  ASSERT_EQ(::stat(root->c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 07777, 0711U);
  ASSERT_TRUE(writeFile(*root + "/written", "w"));
  EXPECT_EQ(*readFile(paths_.data + "/containers/c1/upper/written"), "w");
  // Again, as after a crash: fresh, although the work directory was volatile.
  root = storage_->mountContainer("c1", {"low", "top"});
  ASSERT_TRUE(root) << root.error().text();
  EXPECT_FALSE(pathExists(*root + "/written"));
  EXPECT_EQ(storage_->containers(), std::vector<std::string>{"c1"});
  EXPECT_TRUE(storage_->unmountContainer("c1"));
  EXPECT_TRUE(storage_->unmountContainer("c1"));
  EXPECT_FALSE(*isMountPoint(*root));
  EXPECT_TRUE(storage_->removeContainer("c1"));
  EXPECT_TRUE(storage_->removeContainer("c1"));
  EXPECT_TRUE(storage_->containers().empty());
}

TEST_F(StorageTest, ManyLayers) {
  std::vector<std::string> names;
  for (int i = 0; i < 130; ++i) {
    std::string name = "layer" + std::to_string(1000 + i);
    layer(name, "f" + std::to_string(i), std::to_string(i));
    names.push_back(name);
  }
  names.push_back(names[0]);  // a layer may come twice
  auto root = storage_->mountContainer("many", names);
  ASSERT_TRUE(root) << root.error().text();
  for (int i = 0; i < 130; ++i) EXPECT_EQ(*readFile(*root + "/f" + std::to_string(i)), std::to_string(i));
}

TEST_F(StorageTest, Errors) {
  EXPECT_FALSE(storage_->mountContainer("../x", {"l"}));
  EXPECT_FALSE(storage_->mountContainer("c", {}));
  auto missing = storage_->mountContainer("c", {"nothing"});
  ASSERT_FALSE(missing);
  EXPECT_TRUE(storage_->containers().empty());
}

TEST_F(StorageTest, Usage) {
  auto images = storage_->imageUsage();
  ASSERT_TRUE(images) << images.error().text();
  EXPECT_EQ(images->usedBytes, 0U);
  auto containers = storage_->containerUsage();
  ASSERT_TRUE(containers);
  EXPECT_GT(containers->usedBytes, 0U);
}

}  // namespace
}  // namespace userpod::storage

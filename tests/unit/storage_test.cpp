#include "daemon/storage/storage.hpp"

#include <gtest/gtest.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <chrono>
#include <csignal>
#include <filesystem>
#include <set>
#include <thread>

#include "daemon/storage/copy_file.hpp"
#include "daemon/storage/layer_format.hpp"
#include "daemon/sys/child.hpp"
#include "daemon/sys/mount.hpp"
#include "daemon/sys/trash.hpp"
#include "daemon/sys/util.hpp"
#include "tests/unit/namespace.hpp"

namespace userpod::storage {
namespace {

struct stat statOf(const std::string& path) {
  struct stat info{};
  EXPECT_EQ(::lstat(path.c_str(), &info), 0) << path;
  return info;
}

std::string attribute(const std::string& path, const char* name) {
  std::string value(256, '\0');
  ssize_t size = ::lgetxattr(path.c_str(), name, value.data(), value.size());
  return size < 0 ? "" : value.substr(0, static_cast<std::size_t>(size));
}

void mark(const std::string& path, const char* name, const std::string& value) {
  ASSERT_EQ(::setxattr(path.c_str(), name, value.data(), value.size(), 0), 0) << path;
}

// The user's own cgroup: processes can be born below it, as below the node's.
NodeInside ownNode() {
  NodeInside node;
  for (const auto& line : split(*readFile("/proc/self/cgroup"), '\n'))
    if (line.starts_with("0::")) node.cgroupRoot = "/sys/fs/cgroup" + (line == "0::/" ? "" : line.substr(3));
  return node;
}

// With each driver. The layers are alike for all.
class StorageTest : public ::testing::TestWithParam<const char*> {
 protected:
  void SetUp() override {
    static const std::string refused = testing::enterUserNamespace();
    if (!refused.empty()) GTEST_SKIP() << refused;
    base_ = testing::makeTestDirectory();
    paths_.data = base_ + "/data";
    settings_.storageDriver = GetParam();
    open();
  }
  void TearDown() override {
    if (storage_) {
      for (const auto& id : storage_->containers()) EXPECT_TRUE(storage_->removeContainer(id));
      waitForTrash();
    }
    storage_.reset();
    EXPECT_FALSE(pathExists(paths_.data + "/.probe"));
    EXPECT_TRUE(::rmdir((node_.cgroupRoot + "/fuse").c_str()) == 0 || errno == ENOENT) << errno;
    if (base_.empty()) return;
    EXPECT_TRUE(unmountDetached(paths_.data));
    EXPECT_TRUE(removeTree(base_));
  }
  void open() {
    storage_.reset();
    auto storage = Storage::open(paths_, settings_, node_);
    if (!storage) GTEST_SKIP() << storage.error().text();
    storage_ = std::move(*storage);
  }
  std::string layer(const std::string& name) {
    std::string path = paths_.data + "/layers/" + name;
    EXPECT_TRUE(makeDirectories(path));
    return path;
  }
  std::string mount(const std::string& id, const std::vector<std::string>& layers) {
    auto root = storage_->mountContainer(id, layers);
    EXPECT_TRUE(root) << root.error().text();
    return root ? *root : "/nowhere";
  }
  std::string container(const std::string& id) const { return paths_.data + "/containers/" + id; }
  void waitForTrash() const {
    for (int i = 0; i < 500 && !std::filesystem::is_empty(paths_.data + "/containers"); ++i)
      std::this_thread::sleep_for(std::chrono::milliseconds(10));
    EXPECT_TRUE(std::filesystem::is_empty(paths_.data + "/containers"));
  }

  std::string base_;
  Paths paths_;
  Settings settings_;
  NodeInside node_ = ownNode();
  std::unique_ptr<Storage> storage_;
};

TEST_P(StorageTest, Lifecycle) {
  EXPECT_EQ(storage_->driver(), GetParam());
  EXPECT_EQ(storage_->reason(), "");
  std::string low = layer("low"), top = layer("top");
  ASSERT_TRUE(writeFile(low + "/a", "low"));
  ASSERT_TRUE(writeFile(top + "/a", "top"));
  ASSERT_EQ(::chmod(low.c_str(), 0711), 0);
  mark(low, kRootMark, "y");
  std::string root = mount("c1", {"low", "top"});
  EXPECT_EQ(root, container("c1") + "/merged");
  EXPECT_EQ(*readFile(root + "/a"), "top");
  EXPECT_EQ(statOf(root).st_mode & 07777, 0711U);
  EXPECT_EQ(attribute(root, kRootMark), "");
  ASSERT_TRUE(writeFile(root + "/written", "w"));
  ASSERT_TRUE(writeFile(root + "/a", "changed"));
  EXPECT_EQ(*readFile(top + "/a"), "top");
  // Again, as after a crash: fresh, although the work directory was volatile.
  root = mount("c1", {"low", "top"});
  EXPECT_FALSE(pathExists(root + "/written"));
  ASSERT_TRUE(writeFile(root + "/again", "w"));
  EXPECT_EQ(storage_->containers(), std::vector<std::string>{"c1"});
  EXPECT_TRUE(storage_->unmountContainer("c1"));
  EXPECT_TRUE(storage_->unmountContainer("c1"));
  EXPECT_FALSE(*isMountPoint(root));
  EXPECT_EQ(*readFile(container("c1") + (storage_->driver() == "copy" ? "/merged/again" : "/upper/again")), "w");
  EXPECT_TRUE(storage_->removeContainer("c1"));
  EXPECT_TRUE(storage_->removeContainer("c1"));
  EXPECT_TRUE(storage_->containers().empty());
}

// What is hidden, by a device or mark of overlayfs or in names, and what is not.
TEST_P(StorageTest, Hidden) {
  std::string low = layer("low"), middle = layer("middle"), top = layer("top");
  for (const char* name : {"opaque", "merged", "replaced", "gone"}) {
    ASSERT_TRUE(makeDirectories(low + "/" + name));
    ASSERT_TRUE(writeFile(low + "/" + name + "/low", "low"));
  }
  ASSERT_TRUE(writeFile(low + "/file", "low"));
  ASSERT_TRUE(writeFile(low + "/becomes", "low"));
  ASSERT_TRUE(writeFile(low + "/back", "low"));
  for (const char* name : {"opaque", "merged", "becomes"}) {
    ASSERT_TRUE(makeDirectories(middle + "/" + name));
    ASSERT_TRUE(writeFile(middle + "/" + name + "/middle", "middle"));
  }
  mark(middle + "/opaque", kOpaqueMark, "y");
  ASSERT_TRUE(writeFile(middle + "/replaced", "file"));
  for (const char* name : {"file", "gone", "back", "never"})
    ASSERT_EQ(::mknod((middle + "/" + name).c_str(), S_IFCHR, 0), 0);
  ASSERT_TRUE(makeDirectories(top + "/opaque"));
  ASSERT_TRUE(makeDirectories(top + "/replaced"));
  ASSERT_TRUE(writeFile(top + "/back", "top"));
  std::string root = mount("c", {"low", "middle", "top"});
  EXPECT_FALSE(pathExists(root + "/opaque/low"));
  EXPECT_EQ(*readFile(root + "/opaque/middle"), "middle");
  EXPECT_EQ(*readFile(root + "/merged/low"), "low");
  EXPECT_EQ(*readFile(root + "/merged/middle"), "middle");
  EXPECT_EQ(*readFile(root + "/becomes/middle"), "middle");
  EXPECT_TRUE(std::filesystem::is_empty(root + "/replaced"));
  EXPECT_EQ(*readFile(root + "/back"), "top");
  for (const char* name : {"file", "gone", "never"}) EXPECT_FALSE(pathExists(root + "/" + name)) << name;
  // A name that was hidden is free, and a directory made anew is empty.
  ASSERT_TRUE(makeDirectories(root + "/gone"));
  EXPECT_TRUE(std::filesystem::is_empty(root + "/gone"));
  std::filesystem::remove_all(root + "/merged");
  ASSERT_TRUE(makeDirectories(root + "/merged"));
  EXPECT_TRUE(std::filesystem::is_empty(root + "/merged"));
}

// Native overlay does not know these and never meets them.
using ByNames = StorageTest;

TEST_P(ByNames, Hidden) {
  std::string low = layer("low"), top = layer("top");
  for (const auto& directory : {low + "/opaque", low + "/gone", top + "/opaque"})
    ASSERT_TRUE(makeDirectories(directory));
  for (const auto& file : {low + "/opaque/low", low + "/file", low + "/stays", top + "/opaque/top", top + "/.wh.file",
                           top + "/.wh.gone", top + "/opaque/.wh..wh..opq"})
    ASSERT_TRUE(writeFile(file, ""));
  std::string root = mount("c", {"low", "top"});
  std::set<std::string> seen;
  for (const auto& entry : std::filesystem::recursive_directory_iterator(root))
    seen.insert(entry.path().string().substr(root.size()));
  EXPECT_EQ(seen, (std::set<std::string>{"/opaque", "/opaque/top", "/stays"}));
}

TEST_P(StorageTest, WhatFilesAre) {
  std::string low = layer("low"), top = layer("top");
  const std::string odd = "\xff\xfe a:b,c\\d\n\"'";
  const timespec when{1'000'000'000, 123'000'000};
  ASSERT_TRUE(writeFile(low + "/setuid", "program"));
  ASSERT_EQ(::chmod((low + "/setuid").c_str(), 06755), 0);
  mark(low + "/setuid", "user.note", "kept");
  ASSERT_EQ(::link((low + "/setuid").c_str(), (low + "/second").c_str()), 0);
  ASSERT_TRUE(writeFile(low + "/" + odd, "odd"));
  ASSERT_EQ(::symlink("/etc/passwd", (low + "/link").c_str()), 0);
  ASSERT_EQ(::symlink("../../../../../../../../tmp", (low + "/out").c_str()), 0);
  ASSERT_EQ(::mkfifo((low + "/fifo").c_str(), 0600), 0);
  ASSERT_EQ(::chmod((low + "/fifo").c_str(), 0620), 0);
  ASSERT_TRUE(makeDirectories(low + "/dir/deep", 0755));
  ASSERT_EQ(::chmod((low + "/dir").c_str(), 01777), 0);
  mark(low + "/dir", "user.note", "low");
  ASSERT_TRUE(makeDirectories(top + "/dir", 0755));
  ASSERT_EQ(::chmod((top + "/dir").c_str(), 02750), 0);
  // Below the name of a link of a lower layer: a directory of its own.
  ASSERT_TRUE(makeDirectories(top + "/out", 0755));
  ASSERT_TRUE(writeFile(top + "/out/inside", "in"));
  for (const auto& path : {low + "/setuid", low + "/link", top + "/dir"}) {
    timespec times[2] = {when, when};
    ASSERT_EQ(::utimensat(AT_FDCWD, path.c_str(), times, AT_SYMLINK_NOFOLLOW), 0);
  }
  std::string root = mount("c", {"low", "top"});
  EXPECT_EQ(statOf(root + "/setuid").st_mode, S_IFREG | 06755U);
  EXPECT_EQ(statOf(root + "/setuid").st_mtim.tv_nsec, when.tv_nsec);
  EXPECT_EQ(attribute(root + "/setuid", "user.note"), "kept");
  EXPECT_EQ(statOf(root + "/setuid").st_ino, statOf(root + "/second").st_ino);
  EXPECT_EQ(*readFile(root + "/" + odd), "odd");
  EXPECT_EQ(std::filesystem::read_symlink(root + "/link"), "/etc/passwd");
  EXPECT_EQ(statOf(root + "/link").st_mtim.tv_sec, when.tv_sec);
  EXPECT_EQ(statOf(root + "/fifo").st_mode, S_IFIFO | 0620U);
  EXPECT_EQ(statOf(root + "/dir").st_mode, S_IFDIR | 02750U);
  EXPECT_EQ(statOf(root + "/dir").st_mtim.tv_sec, when.tv_sec);
  EXPECT_EQ(attribute(root + "/dir", "user.note"), "");
  EXPECT_TRUE(pathExists(root + "/dir/deep"));
  EXPECT_EQ(statOf(root + "/out").st_mode & S_IFMT, unsigned{S_IFDIR});
  EXPECT_EQ(*readFile(root + "/out/inside"), "in");
  EXPECT_FALSE(pathExists("/tmp/inside"));
}

TEST_P(StorageTest, ManyLayers) {
  std::vector<std::string> names;
  for (int i = 0; i < 130; ++i) {
    names.push_back("layer" + std::to_string(1000 + i));
    ASSERT_TRUE(makeDirectories(layer(names.back()) + "/shared"));
    ASSERT_TRUE(writeFile(layer(names.back()) + "/shared/f" + std::to_string(i), std::to_string(i)));
  }
  names.push_back(names[0]);  // a layer may come twice
  std::string root = mount("many", names);
  auto volume = storage_->mountVolume("many", 0, names, "shared");
  ASSERT_TRUE(volume) << volume.error().text();
  EXPECT_EQ(*readFile(*volume + "/f129"), "129");
  for (int i = 0; i < 130; ++i) EXPECT_EQ(*readFile(root + "/shared/f" + std::to_string(i)), std::to_string(i));
}

// Volumes of a container: read only, whole or a part of it, and gone with the container.
TEST_P(StorageTest, Volumes) {
  std::string low = layer("low"), top = layer("top");
  ASSERT_TRUE(makeDirectories(low + "/site/pages"));
  ASSERT_TRUE(writeFile(low + "/site/pages/index", "page"));
  ASSERT_TRUE(writeFile(low + "/gone", "low"));
  ASSERT_EQ(::mknod((top + "/gone").c_str(), S_IFCHR, 0), 0);
  ASSERT_EQ(::symlink("/site/pages", (top + "/inside").c_str()), 0);
  ASSERT_EQ(::symlink((base_ + "/secret").c_str(), (top + "/outside").c_str()), 0);
  ASSERT_EQ(::symlink("../../../../../../../../../..", (top + "/up").c_str()), 0);
  ASSERT_EQ(::mkfifo((top + "/fifo").c_str(), 0600), 0);
  ASSERT_TRUE(writeFile(base_ + "/secret", "secret"));
  ASSERT_EQ(::chmod(top.c_str(), 0710), 0);
  mark(top, kRootMark, "y");
  mount("c", {"low"});
  std::size_t number = 0;
  auto volume = [&](const std::vector<std::string>& layers, const std::string& subPath) {
    return storage_->mountVolume("c", number++, layers, subPath);
  };
  auto whole = volume({"low", "top"}, "");
  ASSERT_TRUE(whole) << whole.error().text();
  EXPECT_EQ(*readFile(*whole + "/site/pages/index"), "page");
  EXPECT_FALSE(pathExists(*whole + "/gone"));
  EXPECT_EQ(statOf(*whole).st_mode & 07777, 0710U);
  if (storage_->driver() != "copy") {
    EXPECT_EQ(writeFile(*whole + "/new", "").error().sysErrno(), EROFS);
  }
  auto single = volume({"low"}, "");
  ASSERT_TRUE(single) << single.error().text();
  EXPECT_EQ(*readFile(*single + "/gone"), "low");
  for (const char* path : {"site/pages", "inside", "up/site/pages", "site/../inside/."}) {
    auto part = volume({"low", "top"}, path);
    ASSERT_TRUE(part) << path << part.error().text();
    EXPECT_EQ(*readFile(*part + "/index"), "page") << path;
  }
  auto file = volume({"low", "top"}, "inside/index");
  ASSERT_TRUE(file) << file.error().text();
  EXPECT_EQ(*readFile(*file), "page");
  for (const char* path : {"missing", "outside", "site/pages/index/below", "gone", "fifo"}) {
    auto part = volume({"low", "top"}, path);
    ASSERT_FALSE(part) << path;
    EXPECT_EQ(part.error().code(), Code::InvalidArgument);
  }
  EXPECT_EQ(storage_->containers(), std::vector<std::string>{"c"});
  open();  // a daemon that starts anew finds and ends them
  EXPECT_TRUE(storage_->unmountContainer("c"));
  for (const auto& place : {*whole, *single, *file}) EXPECT_FALSE(*isMountPoint(place)) << place;
  EXPECT_TRUE(storage_->removeContainer("c"));
  EXPECT_EQ(*readFile(low + "/site/pages/index"), "page");
  mount("c", {"low"});  // with a number of volumes from before
  EXPECT_TRUE(storage_->mountVolume("c", 0, {"low"}, "site"));
}

TEST_P(StorageTest, Errors) {
  EXPECT_FALSE(storage_->mountContainer("../x", {"l"}));
  auto none = storage_->mountContainer("c", {});
  ASSERT_FALSE(none);
  EXPECT_EQ(none.error().code(), Code::ImageInvalid);
  EXPECT_FALSE(storage_->mountContainer("c", {"nothing"}));
  EXPECT_TRUE(storage_->containers().empty());
  waitForTrash();
}

TEST_P(StorageTest, Usage) {
  auto images = storage_->imageUsage();
  ASSERT_TRUE(images) << images.error().text();
  EXPECT_EQ(images->usedBytes, 0U);
  EXPECT_TRUE(pathExists(storage_->containerRoot()));
}

TEST_P(StorageTest, ServerAndItsDeath) {
  ASSERT_TRUE(writeFile(layer("low") + "/a", "low"));
  std::string root = mount("c", {"low"});
  auto server = storage_->server("c");
  ASSERT_TRUE(server) << server.error().text();
  EXPECT_EQ(static_cast<bool>(*server), storage_->driver() == "fuse-overlayfs");
  EXPECT_FALSE(*storage_->server("other"));
  if (!*server) return;
  open();  // as a daemon that starts anew: the process is found again, and what it serves is still there
  EXPECT_TRUE(*storage_->server("c"));
  EXPECT_EQ(*readFile(root + "/a"), "low");
  ASSERT_TRUE(signalPidfd(server->get(), SIGKILL));
  for (int i = 0; i < 500 && storage_->server("c"); ++i) std::this_thread::sleep_for(std::chrono::milliseconds(2));
  auto gone = storage_->server("c");
  ASSERT_FALSE(gone);
  EXPECT_NE(gone.error().text().find("has ended"), std::string::npos);
  EXPECT_EQ(readFile(root + "/a").error().sysErrno(), ENOTCONN);
  EXPECT_TRUE(storage_->unmountContainer("c"));
  EXPECT_FALSE(*isMountPoint(root));
  EXPECT_FALSE(*storage_->server("c"));
}

// The daemon comes back with another driver: what the one before has made is used, and removed, all the same.
TEST_P(StorageTest, OtherDrivers) {
  ASSERT_TRUE(writeFile(layer("low") + "/a", "low"));
  std::string root = mount("c", {"low"});
  ASSERT_TRUE(writeFile(root + "/b", "written"));
  for (const char* other : {"overlay", "fuse-overlayfs", "copy"}) {
    settings_.storageDriver = other;
    open();
    EXPECT_EQ(*readFile(mount(other, {"low"}) + "/a"), "low");
  }
  EXPECT_EQ(*readFile(root + "/b"), "written");
  for (const auto& id : storage_->containers()) EXPECT_TRUE(storage_->removeContainer(id)) << id;
  waitForTrash();
}

// A full disk: named as such, and nothing of the try is left. The overlays need no room for layers.
using FullDisk = StorageTest;

TEST_P(FullDisk, Copy) {
  storage_.reset();
  ASSERT_TRUE(mountFilesystem("tmpfs", "tmpfs", paths_.data, 0, "size=4m"));
  open();
  if (!storage_) return;
  ASSERT_TRUE(writeFile(layer("low") + "/first", std::string(2 << 20, 'x')));
  ASSERT_TRUE(writeFile(layer("low") + "/second", std::string(1 << 20, 'x')));
  auto made = storage_->mountContainer("c", {"low"});
  ASSERT_FALSE(made);
  EXPECT_EQ(made.error().code(), Code::NoSpace) << made.error().text();
  EXPECT_TRUE(storage_->containers().empty());
  waitForTrash();
}

// Chosen by trying: on an overlay no other one mounts.
using Choice = StorageTest;

TEST_P(Choice, OnAnOverlay) {
  storage_.reset();
  for (const char* part : {"/lower", "/upper", "/work"}) ASSERT_TRUE(makeDirectories(base_ + part));
  ASSERT_TRUE(mountFilesystem(
      "overlay", "overlay", paths_.data, 0,
      "userxattr,lowerdir=" + base_ + "/lower,upperdir=" + base_ + "/upper,workdir=" + base_ + "/work"));
  open();
  if (!storage_) return;
  EXPECT_NE(storage_->driver(), "overlay");
  EXPECT_TRUE(storage_->reason().starts_with("overlay: ")) << storage_->reason();
  settings_.storageDriver = "overlay";
  auto refused = Storage::open(paths_, settings_, node_);
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code(), Code::StorageFailed);
  EXPECT_NE(refused.error().text().find("storage-driver = \"overlay\""), std::string::npos) << refused.error().text();
}

std::string nameOf(const ::testing::TestParamInfo<const char*>& test) {
  return test.param == std::string("fuse-overlayfs") ? "fuse" : test.param;
}
INSTANTIATE_TEST_SUITE_P(Drivers, StorageTest, ::testing::Values("overlay", "fuse-overlayfs", "copy"), nameOf);
INSTANTIATE_TEST_SUITE_P(Drivers, ByNames, ::testing::Values("fuse-overlayfs", "copy"), nameOf);
INSTANTIATE_TEST_SUITE_P(Drivers, FullDisk, ::testing::Values("copy"), nameOf);
INSTANTIATE_TEST_SUITE_P(Drivers, Choice, ::testing::Values("auto"), nameOf);

TEST(FileCopier, Holes) {
  std::string base = testing::makeTestDirectory();
  auto from = openFile(base + "/from", O_RDWR | O_CREAT | O_EXCL);
  auto to = openFile(base + "/to", O_RDWR | O_CREAT | O_EXCL);
  ASSERT_TRUE(from && to);
  constexpr off_t kSize = off_t{1} << 40;
  ASSERT_EQ(::pwrite(from->get(), "middle", 6, kSize / 2), 6);
  ASSERT_EQ(::ftruncate(from->get(), kSize), 0);
  struct stat info{};
  ASSERT_EQ(::fstat(from->get(), &info), 0);
  auto copied = FileCopier().copyData(from->get(), to->get(), info);
  ASSERT_TRUE(copied) << copied.error().text();
  ASSERT_EQ(::fstat(to->get(), &info), 0);
  EXPECT_EQ(info.st_size, kSize);
  EXPECT_LT(info.st_blocks, 1024);
  std::string text(6, '\0');
  ASSERT_EQ(::pread(to->get(), text.data(), 6, kSize / 2), 6);
  EXPECT_EQ(text, "middle");
  EXPECT_TRUE(removeTree(base));
}

TEST(Trash, TakesUpWhatWasLeft) {
  std::string base = testing::makeTestDirectory();
  ASSERT_TRUE(makeDirectories(base + "/.trash-old/deep"));
  ASSERT_TRUE(makeDirectories(base + "/thrown/deep"));
  ASSERT_TRUE(makeDirectories(base + "/kept"));
  Trash trash(base);
  EXPECT_TRUE(trash.discard("thrown"));
  EXPECT_FALSE(pathExists(base + "/thrown"));
  EXPECT_TRUE(trash.discard("missing"));
  auto count = [&] { return std::distance(std::filesystem::directory_iterator(base), {}); };
  for (int i = 0; i < 500 && count() > 1; ++i) std::this_thread::sleep_for(std::chrono::milliseconds(2));
  EXPECT_EQ(count(), 1);
  EXPECT_TRUE(pathExists(base + "/kept"));
  EXPECT_TRUE(removeTree(base));
}

}  // namespace
}  // namespace userpod::storage

#include "daemon/storage/storage.hpp"

#include <dirent.h>
#include <fmt/core.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <cerrno>

#include "daemon/storage/overlay.hpp"
#include "daemon/store/image_store.hpp"
#include "daemon/sys/fd.hpp"
#include "daemon/sys/mount.hpp"
#include "daemon/sys/util.hpp"

namespace userpod::storage {

namespace {

// What the root of the container's file system is to be like.
struct RootOwner {
  mode_t mode = 0755;
  uid_t uid = 0;
  gid_t gid = 0;
};

class NativeOverlay : public Storage {
 public:
  explicit NativeOverlay(const Paths& paths)
      : data_(paths.data), layers_(paths.data + "/layers"), containers_(paths.data + "/containers"), images_(paths.imageDatabase()) {}

  Status prepare();

  std::string driver() const override { return "overlay"; }
  std::string root() const override { return data_; }
  Result<std::string> mountContainer(const std::string& id, const std::vector<std::string>& layers) override;
  Status unmountContainer(const std::string& id) override;
  Status removeContainer(const std::string& id) override;
  std::vector<std::string> containers() const override;
  Result<FilesystemUsage> imageUsage() const override;
  Result<FilesystemUsage> containerUsage() const override;

 private:
  std::string directory(const std::string& id) const { return containers_ + "/" + id; }
  Status probe() const;
  Status makeUpper(const std::string& path, const std::vector<std::string>& layers) const;
  RootOwner rootOwner(const std::vector<std::string>& layers) const;

  const std::string data_;
  const std::string layers_;
  const std::string containers_;
  const std::string images_;  // images.db
};

Status checkId(const std::string& id) {
  bool sane = !id.empty() && id.front() != '.' && id.find('/') == std::string::npos;
  return sane ? Status() : Error(Code::InvalidArgument, fmt::format("\"{}\" cannot be the id of a container", id));
}

Status NativeOverlay::prepare() {
  USERPOD_CHECK(makeDirectories(data_, 0700));
  USERPOD_CHECK(makeDirectories(layers_, 0711));
  USERPOD_CHECK(makeDirectories(containers_, 0711));
  return probe();
}

// A mount, and a whiteout and an opaque mark seen through it: that the kernel takes userxattr says little about NFS.
Status NativeOverlay::probe() const {
  std::string base = fmt::format("{}/.probe-{}", data_, randomHex(4));
  auto tried = [&]() -> Status {
    for (const char* part : {"/lower", "/lower/hidden", "/top", "/upper", "/work", "/merged"})
      USERPOD_CHECK(makeDirectories(base + part));
    std::string whiteout = base + "/top/hidden";
    if (::mknod(whiteout.c_str(), S_IFCHR, 0) < 0) return sysError("make a whiteout in " + data_);
    if (::setxattr((base + "/top").c_str(), "user.userpod.probe", "y", 1, 0) < 0)
      return sysError("set an extended attribute (user.*) in " + data_);
    USERPOD_CHECK(mountOverlay({base, {"lower", "top"}, base + "/upper", base + "/work", base + "/merged"}));
    bool hidden = !pathExists(base + "/merged/hidden");
    USERPOD_CHECK(unmountDetached(base + "/merged"));
    if (!hidden) return Error(Code::StorageFailed, "overlayfs shows what a whiteout hides");
    return {};
  }();
  static_cast<void>(removeTree(base));
  if (tried) return {};
  return Error(Code::StorageFailed,
               fmt::format("native overlay does not work in {}: {}. It needs kernel 5.11 or later and a local file system with "
                           "user.* attributes (ext4, xfs, btrfs; not NFS): set XDG_DATA_HOME to a place on one",
                           data_, tried.error().text()),
               tried.error().sysErrno());
}

// From the highest layer whose archive had an entry for the root (see images/layer_tree.hpp).
RootOwner NativeOverlay::rootOwner(const std::vector<std::string>& layers) const {
  for (auto name = layers.rbegin(); name != layers.rend(); ++name) {
    std::string path = layers_ + "/" + *name;
    char mark = 0;
    struct stat info{};
    if (::lgetxattr(path.c_str(), "user.userpod.root", &mark, 1) == 1 && ::lstat(path.c_str(), &info) == 0)
      return {info.st_mode & 07777, info.st_uid, info.st_gid};
  }
  return {};
}

Status NativeOverlay::makeUpper(const std::string& path, const std::vector<std::string>& layers) const {
  RootOwner owner = rootOwner(layers);
  USERPOD_CHECK(makeDirectories(path, 0700));
  if (::chown(path.c_str(), owner.uid, owner.gid) < 0) return sysError("set the owner of " + path);
  if (::chmod(path.c_str(), owner.mode) < 0) return sysError("set the mode of " + path);
  return {};
}

Result<std::string> NativeOverlay::mountContainer(const std::string& id, const std::vector<std::string>& layers) {
  USERPOD_CHECK(removeContainer(id));
  std::string base = directory(id);
  OverlayMount mount{layers_, layers, base + "/upper", base + "/work", base + "/merged"};
  auto made = [&]() -> Status {
    USERPOD_CHECK(makeDirectories(base, 0711));
    USERPOD_CHECK(makeUpper(mount.upper, layers));
    USERPOD_CHECK(makeDirectories(mount.work, 0700));
    USERPOD_CHECK(makeDirectories(mount.target, 0755));
    return mountOverlay(mount);
  }();
  if (made) return mount.target;
  static_cast<void>(removeContainer(id));
  return std::move(made).error().wrap("container " + id);
}

Status NativeOverlay::unmountContainer(const std::string& id) {
  USERPOD_CHECK(checkId(id));
  return unmountDetached(directory(id) + "/merged");
}

Status NativeOverlay::removeContainer(const std::string& id) {
  USERPOD_CHECK(unmountContainer(id));
  return removeTree(directory(id));
}

std::vector<std::string> NativeOverlay::containers() const {
  std::vector<std::string> ids;
  DIR* open = ::opendir(containers_.c_str());
  if (open == nullptr) return ids;
  while (const dirent* entry = ::readdir(open))
    if (entry->d_name[0] != '.') ids.emplace_back(entry->d_name);
  ::closedir(open);
  return ids;
}

// What the layers were counted to hold when they were unpacked.
Result<FilesystemUsage> NativeOverlay::imageUsage() const {
  USERPOD_TRY(totals, store::layerTotals(images_));
  return FilesystemUsage{layers_, nowNanos(), static_cast<std::uint64_t>(totals.bytes), static_cast<std::uint64_t>(totals.inodes)};
}

// Nobody counts what containers write: this is what the whole file system holds, which is what fills up.
Result<FilesystemUsage> NativeOverlay::containerUsage() const {
  struct statvfs info{};
  if (::statvfs(containers_.c_str(), &info) < 0) return sysError("statvfs " + containers_);
  return FilesystemUsage{containers_, nowNanos(), std::uint64_t{info.f_blocks - info.f_bfree} * info.f_frsize,
                         info.f_files - info.f_ffree};
}

}  // namespace

Result<std::unique_ptr<Storage>> Storage::open(const Paths& paths) {
  auto storage = std::make_unique<NativeOverlay>(paths);
  USERPOD_CHECK(storage->prepare());
  return std::unique_ptr<Storage>(std::move(storage));
}

}  // namespace userpod::storage

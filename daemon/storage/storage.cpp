#include "daemon/storage/storage.hpp"

#include <dirent.h>
#include <fmt/core.h>
#include <linux/openat2.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <cerrno>
#include <filesystem>

#include "daemon/storage/driver.hpp"
#include "daemon/storage/fuse_overlay.hpp"
#include "daemon/storage/layer_format.hpp"
#include "daemon/store/image_store.hpp"
#include "daemon/sys/mount.hpp"
#include "daemon/sys/trash.hpp"
#include "daemon/sys/util.hpp"

namespace userpod::storage {

namespace {

constexpr const char* kPart = "/part";  // of a volume of which only a part is wanted

// Directories, ids and usage, which are the same with every driver. No container's driver is written down: unmounting
// and removing take away what any of them may have made.
class Directories final : public Storage {
 public:
  Directories(const Paths& paths, const NodeInside& node)
      : node_(node),
        data_(paths.data),
        layers_(paths.data + "/layers"),
        containers_(paths.data + "/containers"),
        images_(paths.imageDatabase()) {}

  Status prepare(const std::string& wanted);

  std::string driver() const override { return driver_->name(); }
  std::string reason() const override { return reason_; }
  std::string root() const override { return data_; }
  std::string containerRoot() const override { return containers_; }
  Result<std::string> mountContainer(const std::string& id, const std::vector<std::string>& layers,
                                     const std::string& label) override;
  Result<UniqueFd> server(const std::string& id) const override { return fuseServer(node_, id); }
  Result<std::string> mountVolume(const std::string& id, std::size_t number, const std::vector<std::string>& layers,
                                  const std::string& subPath) override;
  Status unmountContainer(const std::string& id) override;
  Status removeContainer(const std::string& id) override;
  std::string writableLayer(const std::string& id) const override {
    std::string upper = directory(id) + "/upper";
    return pathExists(upper) ? upper : directory(id) + "/merged";
  }
  std::vector<std::string> containers() const override;
  Findings check(const std::set<std::string>& known) override;
  Status mend(const Finding& finding) override;
  Result<FilesystemUsage> imageUsage() const override;

 private:
  std::string directory(const std::string& id) const { return containers_ + "/" + id; }
  std::string volumes(const std::string& id) const { return directory(id) + "/volumes"; }
  static std::string volumeId(const std::string& id, const std::string& number) { return id + "-volume-" + number; }
  Status releaseVolumes(const std::string& id) const;
  Status tryOut(Driver& driver) const;
  Status choose(const std::string& wanted);

  const NodeInside& node_;
  const std::string data_;
  const std::string layers_;
  const std::string containers_;
  const std::string images_;  // images.db
  std::unique_ptr<Driver> driver_;
  std::string reason_;
  std::unique_ptr<Trash> trash_;
};

// Binds what path names below root at place, which is made for it. The image may be hostile: its links are resolved as
// in a root of its own, and what was found is bound by its descriptor, not by a name that is looked up again.
Status bindPart(const std::string& root, const std::string& path, const std::string& place) {
  USERPOD_TRY(top, openFile(root, O_PATH | O_DIRECTORY));
  auto found = openResolved(top.get(), path, O_PATH, RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS);
  struct stat info{};
  if (found && ::fstat(found->get(), &info) < 0) return sysError("stat " + path);
  if (!found || (!S_ISDIR(info.st_mode) && !S_ISREG(info.st_mode)))
    return Error(Code::InvalidArgument,
                 fmt::format("\"{}\" {}", excerpt(path, 256),
                             found ? "is neither a file nor a directory in it" : "is not in it; correct the sub-path"),
                 found ? 0 : found.error().sysErrno());
  if (S_ISDIR(info.st_mode))
    USERPOD_CHECK(makeDirectories(place, 0755));
  else
    USERPOD_CHECK(writeFile(place, ""));
  UniqueFd tree(::open_tree(found->get(), "", OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | AT_EMPTY_PATH));
  if (!tree) return sysError("clone the mount of " + path);
  if (::move_mount(tree.get(), "", AT_FDCWD, place.c_str(), MOVE_MOUNT_F_EMPTY_PATH) < 0)
    return sysError("bind " + path + " on " + place);
  return {};
}

Status checkId(const std::string& id) {
  bool sane = !id.empty() && id.front() != '.' && id.find('/') == std::string::npos;
  return sane ? Status() : Error(Code::InvalidArgument, fmt::format("\"{}\" cannot be the id of a container", id));
}

Status Directories::prepare(const std::string& wanted) {
  USERPOD_CHECK(makeDirectories(data_, 0700));
  USERPOD_CHECK(makeDirectories(layers_, 0711));
  USERPOD_CHECK(makeDirectories(containers_, 0711));
  trash_ = std::make_unique<Trash>(containers_);
  return choose(wanted);
}

Status Directories::choose(const std::string& wanted) {
  std::vector<std::unique_ptr<Driver>> drivers;
  drivers.push_back(makeNativeOverlay());
  drivers.push_back(makeFuseOverlay(node_));
  drivers.push_back(makeCopy());
  for (auto& driver : drivers) {
    if (wanted != "auto" && wanted != driver->name()) continue;
    auto tried = tryOut(*driver);
    if (tried) {
      driver_ = std::move(driver);
      return {};
    }
    if (wanted != "auto")
      return Error(
          Code::StorageFailed,
          fmt::format(
              "storage-driver = \"{}\" does not work in {}: {}; mend that (userpodctl doctor), or let userpod.toml "
              "say \"auto\"",
              wanted, data_, tried.error().text()),
          tried.error().sysErrno());
    reason_ += fmt::format("{}{}: {}", reason_.empty() ? "" : "; ", driver->name(), tried.error().text());
  }
  return Error(Code::StorageFailed, fmt::format("containers cannot be stored in {}: {}", data_, reason_));
}

// A mount and what a whiteout hides in it: that the kernel takes the options says little about NFS or an overlay below.
Status Directories::tryOut(Driver& driver) const {
  const std::string base = data_ + "/.probe";
  RootPlan plan{"probe", base + "/layers", {"lower", "top"}, base + "/containers/probe", false, true};
  auto clean = [&] {
    static_cast<void>(endFuseServer(node_, plan.id));
    static_cast<void>(unmountDetached(plan.target()));
    static_cast<void>(removeTree(base));
  };
  clean();  // of a crash
  auto tried = [&]() -> Status {
    for (const auto& part : {plan.layersDirectory + "/lower/hidden", plan.layersDirectory + "/top", plan.target()})
      USERPOD_CHECK(makeDirectories(part));
    std::string top = plan.layersDirectory + "/top";
    if (::mknod((top + "/hidden").c_str(), S_IFCHR, 0) < 0) {
      if (driver.name() == "overlay") return sysError("make a whiteout (a device 0:0)");
      USERPOD_CHECK(writeFile(fmt::format("{}/{}hidden", top, kHiddenPrefix), ""));
    }
    if (::setxattr(top.c_str(), "user.userpod.probe", "y", 1, 0) < 0)
      return sysError("set an extended attribute (user.*)");
    USERPOD_CHECK(driver.mount(plan));
    bool hidden = !pathExists(plan.target() + "/hidden");
    USERPOD_CHECK(writeFile(plan.target() + "/file", ""));
    if (!hidden) return Error(Code::StorageFailed, "it shows what a whiteout hides");
    return {};
  }();
  clean();
  return tried;
}

Result<std::string> Directories::mountContainer(const std::string& id, const std::vector<std::string>& layers,
                                                const std::string& label) {
  if (!label.empty() && driver_->name() != "overlay")
    return Error(Code::NotSupported,
                 fmt::format("container {}: a root file system by {} cannot have an SELinux label; "
                             "leave selinux_options out, or mend native overlay (userpodctl doctor)",
                             id, driver_->name()));
  USERPOD_CHECK(removeContainer(id));
  RootPlan plan{.id = id, .layersDirectory = layers_, .layers = layers, .directory = directory(id), .label = label};
  auto made = [&]() -> Status {
    USERPOD_CHECK(makeDirectories(plan.directory, 0711));
    USERPOD_CHECK(makeDirectories(plan.target(), 0755));
    return driver_->mount(plan);
  }();
  if (made) return plan.target();
  static_cast<void>(removeContainer(id));
  return std::move(made).error().wrap("container " + id);
}

Result<std::string> Directories::mountVolume(const std::string& id, std::size_t number,
                                             const std::vector<std::string>& layers, const std::string& subPath) {
  USERPOD_CHECK(checkId(id));
  std::string name = std::to_string(number);
  RootPlan plan{volumeId(id, name), layers_, layers, volumes(id) + "/" + name, true};
  USERPOD_CHECK(makeDirectories(plan.directory, 0711));
  USERPOD_CHECK(makeDirectories(plan.target(), 0755));
  USERPOD_CHECK(driver_->mount(plan));
  if (subPath.empty()) return plan.target();
  std::string part = plan.directory + kPart;
  USERPOD_CHECK(bindPart(plan.target(), subPath, part));
  return part;
}

// The processes first: nothing was written that should reach them.
Status Directories::releaseVolumes(const std::string& id) const {
  for (const auto& number : namesIn(volumes(id))) {
    std::string volume = volumes(id) + "/" + number;
    USERPOD_CHECK(endFuseServer(node_, volumeId(id, number)));
    USERPOD_CHECK(unmountDetached(volume + kPart));
    USERPOD_CHECK(unmountDetached(volume + "/merged"));
  }
  return {};
}

// The mount first: with it what the kernel still holds reaches the process.
Status Directories::unmountContainer(const std::string& id) {
  USERPOD_CHECK(checkId(id));
  USERPOD_CHECK(releaseVolumes(id));
  USERPOD_CHECK(unmountDetached(directory(id) + "/merged"));
  return endFuseServer(node_, id);
}

// The process first: nothing it has is wanted, it may hang, and a half-made one would mount after us.
Status Directories::removeContainer(const std::string& id) {
  USERPOD_CHECK(checkId(id));
  USERPOD_CHECK(releaseVolumes(id));
  USERPOD_CHECK(endFuseServer(node_, id));
  USERPOD_CHECK(unmountDetached(directory(id) + "/merged"));
  return trash_->discard(id);
}

std::vector<std::string> Directories::containers() const {
  return namesIn(containers_);
}

Findings Directories::check(const std::set<std::string>& known) {
  using Severity = Finding::Severity;
  constexpr const char* kRepair = "userpodctl check --repair";
  Findings found;
  for (const auto& id : containers())
    if (!known.contains(id))
      found.push_back({"container-directory-unknown", Severity::Warning, "file", directory(id),
                       "what a container wrote that is not there any more", kRepair, true});
  auto pending = trash_->pending();
  std::error_code error;
  for (std::filesystem::directory_iterator entry(containers_, error), end; !error && entry != end;
       entry.increment(error))
    if (auto name = entry->path().filename().string(); name.starts_with(Trash::kPrefix) && !pending.contains(name))
      found.push_back({"container-trash-left", Severity::Warning, "file", entry->path(),
                       "thrown away, and could not be removed: see the journal", kRepair, true});
  return found;
}

Status Directories::mend(const Finding& finding) {
  auto name = finding.id.substr(finding.id.rfind('/') + 1);
  if (!name.starts_with(Trash::kPrefix)) return removeContainer(name);
  if (!trash_->pending().contains(name)) trash_->retry(name);
  return {};
}

// What the layers were counted to hold when they were unpacked.
Result<FilesystemUsage> Directories::imageUsage() const {
  USERPOD_TRY(totals, store::layerTotals(images_));
  return FilesystemUsage{layers_, nowNanos(), static_cast<std::uint64_t>(totals.bytes),
                         static_cast<std::uint64_t>(totals.inodes)};
}

}  // namespace

Result<std::unique_ptr<Storage>> Storage::open(const Paths& paths, const Settings& settings, const NodeInside& node) {
  auto storage = std::make_unique<Directories>(paths, node);
  USERPOD_CHECK(storage->prepare(settings.storageDriver));
  return std::unique_ptr<Storage>(std::move(storage));
}

}  // namespace userpod::storage

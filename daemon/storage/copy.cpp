// No overlay at all: the layers' files copied to one place, for hosts on which neither kind of overlay mounts.
#include <dirent.h>
#include <fmt/core.h>
#include <linux/openat2.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <climits>
#include <map>

#include "daemon/storage/copy_file.hpp"
#include "daemon/storage/driver.hpp"
#include "daemon/storage/layer_format.hpp"
#include "daemon/sys/fd.hpp"
#include "daemon/sys/stage.hpp"

namespace userpod::storage {
namespace {

constexpr std::uint64_t kBeneath = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS;
constexpr int kDirectory = O_RDONLY | O_DIRECTORY | O_NOFOLLOW;

using Times = std::array<timespec, 2>;
Times timesOf(const struct stat& info) {
  return {info.st_atim, info.st_mtim};
}

Result<UniqueFd> openBelow(int root, const std::string& path) {
  return openResolved(root, path.empty() ? "." : path, kDirectory, kBeneath);
}

Result<std::vector<std::string>> entriesOf(int directory) {
  USERPOD_TRY(own, openAt(directory, ".", kDirectory));
  std::unique_ptr<DIR, int (*)(DIR*)> open(::fdopendir(own.get()), ::closedir);
  if (!open) return sysError("read directory");
  static_cast<void>(own.release());
  std::vector<std::string> names;
  while (const dirent* entry = ::readdir(open.get())) {
    std::string name = entry->d_name;
    if (name != "." && name != "..") names.push_back(std::move(name));
  }
  return names;
}

bool isOpaque(int directory) {
  char mark = 0;
  if (::fgetxattr(directory, kOpaqueMark, &mark, 1) == 1 && mark == 'y') return true;
  return ::faccessat(directory, kOpaqueFile, F_OK, AT_SYMLINK_NOFOLLOW) == 0;
}

// Walks all layers at once, the highest first: each name is copied from where it counts, and nothing that is hidden.
// Paths are opened anew for each directory, so few descriptors are open however deep or many the layers are.
class TreeCopy {
 public:
  explicit TreeCopy(const RootPlan& plan) : plan_(plan) {}
  Status run();

 private:
  using Layers = std::vector<std::size_t>;  // numbers in layers_, the highest layer first
  struct Place {
    std::string path;  // of a directory below the root; empty: the root
    Layers layers;     // that show a directory there; none: all below it is copied, and its times can be set
    Times times;
  };
  struct Found {         // what has a name
    bool open = false;   // a directory in which those of lower layers show through
    Layers layers = {};  // empty: no directory, or nothing
    Times times = {};
  };
  using Names = std::map<std::string, Found>;

  Status copyDirectory(const Place& place);
  Status mergeLayer(const Place& place, int target, std::size_t layer, Names& names);
  Status mergeEntry(int source, int target, std::size_t layer, const std::string& path, Found& found);
  Status copyEntry(int source, int target, std::size_t layer, const std::string& path, const struct stat& info);
  Status copyFile(int source, int target, const std::string& name, const struct stat& info);

  const RootPlan& plan_;
  std::vector<UniqueFd> layers_;
  UniqueFd root_;
  std::vector<Place> waiting_;
  std::map<std::pair<std::size_t, ino_t>, std::string> links_;  // first copies of files that have several names
  FileCopier copier_;
};

std::string nameOf(const std::string& path) {
  return path.substr(path.rfind('/') + 1);
}

Status TreeCopy::run() {
  USERPOD_TRY(stack, stackOf(plan_));
  USERPOD_TRY(root, openFile(plan_.target(), kDirectory));
  root_ = std::move(root);
  Place top;
  for (bool open = true; const auto& name : stack) {
    USERPOD_TRY(layer, openFile(plan_.layersDirectory + "/" + name, kDirectory));
    layers_.push_back(std::move(layer));
    if (open) top.layers.push_back(layers_.size() - 1);
    open = open && !isOpaque(layers_.back().get());
  }
  USERPOD_CHECK(copyDirectory(top));
  if (!plan_.trial) reachStage("copy.begun", plan_.id);
  while (!waiting_.empty()) {
    Place place = std::move(waiting_.back());
    waiting_.pop_back();
    USERPOD_CHECK(copyDirectory(place));
  }
  return {};
}

Status TreeCopy::copyDirectory(const Place& place) {
  USERPOD_TRY(target, openBelow(root_.get(), place.path));
  if (place.layers.empty()) {
    if (::futimens(target.get(), place.times.data()) < 0) return sysError("set the time of /" + place.path);
    return {};
  }
  Names names;
  for (std::size_t layer : place.layers) USERPOD_CHECK(mergeLayer(place, target.get(), layer, names));
  for (auto& [name, found] : names) {
    if (found.layers.empty()) continue;
    std::string path = place.path.empty() ? name : place.path + "/" + name;
    waiting_.push_back({path, {}, found.times});
    waiting_.push_back({path, std::move(found.layers), {}});
  }
  return {};
}

Status TreeCopy::mergeLayer(const Place& place, int target, std::size_t layer, Names& names) {
  USERPOD_TRY(source, openBelow(layers_[layer].get(), place.path));
  USERPOD_TRY(entries, entriesOf(source.get()));
  for (const auto& name : entries) {
    if (name.starts_with(kHiddenPrefix)) continue;
    auto [known, fresh] = names.try_emplace(name);
    Found& found = known->second;
    if (!fresh && !found.open) continue;
    std::string path = place.path.empty() ? name : place.path + "/" + name;
    auto merged = mergeEntry(source.get(), target, layer, path, found);
    if (!merged) return std::move(merged).error().wrap("copy /" + path);
  }
  // Hides what lower layers have, not what this one has.
  for (const auto& name : entries)
    if (name.starts_with(kHiddenPrefix)) names[name.substr(kHiddenPrefix.size())].open = false;
  return {};
}

// The first layer that has the name makes the entry; a lower one can only add to a directory that is open to it.
Status TreeCopy::mergeEntry(int source, int target, std::size_t layer, const std::string& path, Found& found) {
  std::string name = nameOf(path);
  bool fresh = found.layers.empty();
  found.open = false;
  struct stat info{};
  if (::fstatat(source, name.c_str(), &info, AT_SYMLINK_NOFOLLOW) < 0) return sysError("stat");
  if (!S_ISDIR(info.st_mode)) return fresh ? copyEntry(source, target, layer, path, info) : Status();
  USERPOD_TRY(from, openAt(source, name, kDirectory));
  if (fresh) {
    if (::mkdirat(target, name.c_str(), 0700) < 0) return sysError("make directory");
    USERPOD_TRY(to, openAt(target, name, kDirectory));
    USERPOD_CHECK(FileCopier::copyMetadata(from.get(), to.get(), info));
    found.times = timesOf(info);
  }
  found.layers.push_back(layer);
  found.open = !isOpaque(from.get());
  return {};
}

// Anything but a directory. Devices are none: layers hold no other than whiteouts.
Status TreeCopy::copyEntry(int source, int target, std::size_t layer, const std::string& path,
                           const struct stat& info) {
  std::string name = nameOf(path);
  if (!S_ISREG(info.st_mode) && !S_ISLNK(info.st_mode) && !S_ISFIFO(info.st_mode)) return {};
  if (info.st_nlink > 1) {
    auto [first, fresh] = links_.try_emplace({layer, info.st_ino}, path);
    if (!fresh) {
      const std::string& known = first->second;
      auto slash = known.rfind('/');
      USERPOD_TRY(parent, openBelow(root_.get(), slash == std::string::npos ? "" : known.substr(0, slash)));
      if (::linkat(parent.get(), nameOf(known).c_str(), target, name.c_str(), 0) < 0) return sysError("make hard link");
      return {};
    }
  }
  if (S_ISREG(info.st_mode)) return copyFile(source, target, name, info);
  if (S_ISLNK(info.st_mode)) {
    std::string text(PATH_MAX, '\0');
    ssize_t length = ::readlinkat(source, name.c_str(), text.data(), text.size());
    if (length < 0) return sysError("read link");
    text.resize(static_cast<std::size_t>(length));
    if (::symlinkat(text.c_str(), target, name.c_str()) < 0) return sysError("make link");
  } else if (::mkfifoat(target, name.c_str(), 0600) < 0) {
    return sysError("make fifo");
  }
  if (::fchownat(target, name.c_str(), info.st_uid, info.st_gid, AT_SYMLINK_NOFOLLOW) < 0)
    return sysError("set the owner");
  if (S_ISFIFO(info.st_mode) && ::fchmodat(target, name.c_str(), info.st_mode & 07777, 0) < 0)
    return sysError("set the mode");
  Times times = timesOf(info);
  if (::utimensat(target, name.c_str(), times.data(), AT_SYMLINK_NOFOLLOW) < 0) return sysError("set the time");
  return {};
}

Status TreeCopy::copyFile(int source, int target, const std::string& name, const struct stat& info) {
  USERPOD_TRY(from, openAt(source, name, O_RDONLY | O_NOFOLLOW));
  USERPOD_TRY(to, openAt(target, name, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW, 0600));
  USERPOD_CHECK(copier_.copyData(from.get(), to.get(), info));
  USERPOD_CHECK(FileCopier::copyMetadata(from.get(), to.get(), info));
  Times times = timesOf(info);
  if (::futimens(to.get(), times.data()) < 0) return sysError("set the time");
  return {};
}

class Copy final : public Driver {
 public:
  std::string name() const override { return "copy"; }
  Status mount(const RootPlan& plan) override {
    USERPOD_CHECK(makeRoot(plan, plan.target()));
    return TreeCopy(plan).run();
  }
};

}  // namespace

std::unique_ptr<Driver> makeCopy() {
  return std::make_unique<Copy>();
}

}  // namespace userpod::storage

// The extractor, in a small world of its own: whatever the archive says, nothing but its directory changes.
#include <dirent.h>
#include <fcntl.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "daemon/images/unpack/extractor.hpp"
#include "daemon/sys/fd.hpp"
#include "tests/fuzz/fuzz.hpp"
#include "tests/unit/namespace.hpp"

using namespace userpod;
using fuzz::require;

namespace {

// A tmpfs that an extraction has as its root directory:
//   /jail/layer  the layer        /etc/passwd  what an archive may aim at        /proc  the real one
class World {
 public:
  World() {
    if (auto refused = testing::enterUserNamespace(); !refused.empty()) skip(refused);
    std::string place = std::filesystem::temp_directory_path() / "userpod-fuzz-XXXXXX";
    if (::mkdtemp(place.data()) == nullptr) skip("no temporary directory");
    if (::mount("userpod-fuzz", place.c_str(), "tmpfs", MS_NODEV, "size=512m,mode=0755") < 0) skip("no tmpfs");
    for (const char* name : {"/jail", "/jail/layer", "/etc", "/proc"}) ::mkdir((place + name).c_str(), 0755);
    if (!writeFile(place + "/etc/passwd", "root:x:0:0:::\n")) skip("no space");
    if (::mount("/proc", (place + "/proc").c_str(), nullptr, MS_BIND | MS_REC, nullptr) < 0) skip("no /proc");
    outside_ = ::open("/", O_PATH | O_DIRECTORY | O_CLOEXEC);
    directory_ = ::open(".", O_PATH | O_DIRECTORY | O_CLOEXEC);
    inside_ = ::open(place.c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC);
    // Held by descriptors alone: nothing is left of it after any end.
    if (::umount2(place.c_str(), MNT_DETACH) < 0 || ::rmdir(place.c_str()) < 0) skip("the tmpfs cannot be hidden");
    enter();
    before_ = look();
    leave();
  }

  // The fuzzer itself, and reports of the sanitizers, need the real root.
  void enter() {
    if (::fchdir(inside_) < 0 || ::chroot(".") < 0 || ::chdir("/etc") < 0) skip("chroot");
  }
  void leave() {
    if (::fchdir(outside_) < 0 || ::chroot(".") < 0 || ::fchdir(directory_) < 0) std::abort();
  }

  void check() {
    require(look() == before_, "nothing outside of the layer changes");
    require(namesIn("/jail") == std::vector<std::string>{"layer"}, "nothing is made beside the layer");
    std::error_code ignored;
    for (const auto& entry : std::filesystem::recursive_directory_iterator("/jail/layer", ignored)) {
      struct stat info{};
      if (::lstat(entry.path().c_str(), &info) < 0) continue;
      require(!S_ISBLK(info.st_mode) && (!S_ISCHR(info.st_mode) || info.st_rdev == makedev(0, 0)), "no device is made");
    }
  }
  void renew() {
    require(static_cast<bool>(removeTree("/jail/layer")), "what was unpacked can be removed");
    require(::mkdir("/jail/layer", 0755) == 0, "the layer is gone");
  }

 private:
  [[noreturn]] static void skip(const std::string& why) {
    std::fprintf(stderr, "skipped: %s\n", why.c_str());
    std::exit(77);
  }
  static std::vector<std::string> namesIn(const char* directory) {
    std::vector<std::string> names;
    for (const auto& entry : std::filesystem::directory_iterator(directory)) names.push_back(entry.path().filename());
    std::sort(names.begin(), names.end());
    return names;
  }
  static std::string look() {
    std::string seen;
    for (const char* path : {"/", "/etc", "/etc/passwd"}) {
      struct stat info{};
      if (::lstat(path, &info) < 0) return "gone";
      for (std::uint64_t value :
           {std::uint64_t{info.st_ino}, std::uint64_t{info.st_mode}, std::uint64_t{info.st_nlink},
            static_cast<std::uint64_t>(info.st_size), static_cast<std::uint64_t>(info.st_ctim.tv_sec),
            static_cast<std::uint64_t>(info.st_ctim.tv_nsec)})
        seen += std::to_string(value) + " ";
    }
    for (const char* directory : {"/", "/etc"})
      for (const auto& name : namesIn(directory)) seen += name + " ";
    return seen;
  }

  int outside_ = -1;
  int directory_ = -1;
  int inside_ = -1;
  std::string before_;
};

World& world() {
  static World made;
  return made;
}

void extract(std::string_view tar) {
  auto root = openFile("/jail/layer", O_RDONLY | O_DIRECTORY);
  require(static_cast<bool>(root), "the layer is there");
  constexpr std::size_t kPiece = 3000;  // entries lie across pieces
  std::unique_ptr<char[]> piece;        // each a copy of its own, for the sanitizer to see a read behind its end
  images::UnpackLimits limits{.bytes = 64LL << 20};  // of holes, too
  images::UnpackCounters counters;
  images::UnpackBudget budget(limits, counters);
  auto next = [&]() -> Result<std::string_view> {
    auto part = tar.substr(0, kPiece);
    tar.remove_prefix(part.size());
    piece.reset(new char[part.size()]);
    std::memcpy(piece.get(), part.data(), part.size());
    return std::string_view(piece.get(), part.size());
  };
  auto extracted = images::extractTar(root->get(), next, budget);
  if (extracted)
    return require(tar.empty() && extracted->bytes >= 0 && extracted->inodes >= 0, "all is read and counted");
  require(!extracted.error().text().empty(), "an error has a text");
  require(extracted.error().text().size() < 10000, "the message is short whatever the archive is");
}

}  // namespace

// Called by the sanitizers before they report: their symbolizer and libFuzzer's artifacts are outside.
extern "C" void __asan_on_error() {
  world().leave();
}  // NOLINT(bugprone-reserved-identifier): the sanitizers' name

// A user namespace is for a process of one thread, and libFuzzer starts a second one after this.
extern "C" int LLVMFuzzerInitialize(int*, char***) {
  world();
  return 0;
}

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  world().enter();
  extract(fuzz::text(data, size));
  world().check();
  world().renew();
  world().leave();
  return 0;
}

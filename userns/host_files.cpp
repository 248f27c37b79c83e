#include "userns/host_files.hpp"

#include <sys/inotify.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <filesystem>

namespace userpod {
namespace {

// Programs write such a file in several steps, or several of them do after a change of network.
constexpr std::chrono::milliseconds kPause{200};
constexpr std::size_t kLargest = 1U << 20;
constexpr int kMostLinks = 16;

constexpr std::uint32_t kInDirectory =
    IN_CREATE | IN_DELETE | IN_MOVED_TO | IN_MOVED_FROM | IN_CLOSE_WRITE | IN_ONLYDIR | IN_DELETE_SELF | IN_MOVE_SELF;

// The directory to be watched for a path, and the name in it that matters: where a directory of the path is missing,
// the nearest one above it.
std::pair<std::string, std::string> placeOf(const std::filesystem::path& path) {
  std::filesystem::path at = path;
  std::error_code ignored;
  while (at.has_relative_path() && !std::filesystem::is_directory(at.parent_path(), ignored)) at = at.parent_path();
  return {at.parent_path(), at.filename()};
}

}  // namespace

FileWatch::FileWatch(std::vector<std::string> paths) : inotify_(::inotify_init1(IN_NONBLOCK | IN_CLOEXEC)) {
  for (auto& path : paths) files_.push_back({std::move(path), ""});
  watch();
  read();
}

// Each link on the way is in a directory of its own, which may change.
void FileWatch::watchWay(const std::string& path, Names& names) {
  std::filesystem::path at = path;
  for (int links = 0; links < kMostLinks; ++links) {
    auto [directory, name] = placeOf(at);
    int number = ::inotify_add_watch(inotify_.get(), directory.c_str(), kInDirectory);
    if (number >= 0) names[number].insert(name);
    std::error_code failed;
    auto target = std::filesystem::read_symlink(at, failed);
    if (failed) break;
    // Not lexically: a part of the path may be a link itself.
    auto parent = std::filesystem::weakly_canonical(at.parent_path(), failed);
    at = target.is_absolute() ? target : (failed ? at.parent_path() : parent) / target;
    if (auto whole = std::filesystem::weakly_canonical(at.parent_path(), failed); !failed) at = whole / at.filename();
  }
  // The file itself too: one that is mounted there is written without a word in its directory.
  if (int number = ::inotify_add_watch(inotify_.get(), path.c_str(), IN_CLOSE_WRITE | IN_MODIFY); number >= 0)
    names.try_emplace(number);
}

void FileWatch::watch() {
  if (!inotify_) return;
  Names names;
  for (const auto& file : files_) watchWay(file.path, names);
  for (const auto& [number, ignored] : names_)
    if (!names.contains(number)) ::inotify_rm_watch(inotify_.get(), number);
  names_ = std::move(names);
}

bool FileWatch::read() {
  bool changed = false;
  for (auto& file : files_) {
    auto text = readFile(file.path, kLargest);
    if (!text || *text == file.text) continue;
    file.text = std::move(*text);
    changed = true;
  }
  return changed;
}

int FileWatch::timeout() const {
  if (!due_) return -1;
  auto left = std::chrono::ceil<std::chrono::milliseconds>(*due_ - Clock::now());
  return static_cast<int>(std::max<std::int64_t>(left.count(), 0));
}

void FileWatch::drain() {
  alignas(inotify_event) std::array<char, 16384> buffer;
  ssize_t size = 0;
  while ((size = ::read(inotify_.get(), buffer.data(), buffer.size())) > 0) {
    for (ssize_t at = 0; at < size;) {
      inotify_event event;
      std::memcpy(&event, buffer.data() + at, sizeof(event));
      const char* name = buffer.data() + at + sizeof(event);
      auto known = names_.find(event.wd);
      bool matters =
          (event.mask & (IN_Q_OVERFLOW | IN_DELETE_SELF | IN_MOVE_SELF)) != 0 ||
          (known != names_.end() && (known->second.empty() || (event.len > 0 && known->second.contains(name))));
      if (matters && !due_) due_ = Clock::now() + kPause;
      at += static_cast<ssize_t>(sizeof(event) + event.len);
    }
  }
}

bool FileWatch::look() {
  if (inotify_) drain();
  if (!due_ || Clock::now() < *due_) return false;
  due_.reset();
  watch();  // first: what changes while the files are read is heard of
  return read();
}

}  // namespace userpod

#include "daemon/sys/trash.hpp"

#include <sys/resource.h>

#include <cerrno>
#include <cstdio>
#include <filesystem>

#include "daemon/sys/fd.hpp"
#include "daemon/sys/log.hpp"
#include "daemon/sys/util.hpp"

namespace userpod {

Trash::Trash(std::string directory) : directory_(std::move(directory)) {
  std::error_code none;
  for (const auto& entry : std::filesystem::directory_iterator(directory_, none))
    if (auto name = entry.path().filename().string(); name.starts_with(kPrefix)) names_.push_back(std::move(name));
  remover_ = std::jthread([this](const std::stop_token& stop) { run(stop); });
}

Status Trash::discard(const std::string& name) {
  std::string hidden = std::string(kPrefix) + randomHex(8);
  if (::rename((directory_ + "/" + name).c_str(), (directory_ + "/" + hidden).c_str()) < 0) {
    if (errno == ENOENT) return {};
    return sysError("rename " + directory_ + "/" + name);
  }
  std::lock_guard lock(mutex_);
  names_.push_back(std::move(hidden));
  ready_.notify_one();
  return {};
}

std::set<std::string> Trash::pending() {
  std::lock_guard lock(mutex_);
  std::set<std::string> all(names_.begin(), names_.end());
  all.insert(current_);
  return all;
}

void Trash::retry(const std::string& name) {
  std::lock_guard lock(mutex_);
  names_.push_back(name);
  ready_.notify_one();
}

void Trash::run(const std::stop_token& stop) {
  // Nobody waits for it: it takes what others leave. Of this thread alone.
  constexpr int kNice = 10;
  (void)::setpriority(PRIO_PROCESS, 0, kNice);
  for (;;) {
    std::string name;
    {
      std::unique_lock lock(mutex_);
      if (!ready_.wait(lock, stop, [this] { return !names_.empty(); }) || stop.stop_requested()) return;
      name = std::move(names_.front());
      names_.pop_front();
      current_ = name;
    }
    auto removed = removeTree(directory_ + "/" + name, stop);
    {
      std::lock_guard lock(mutex_);
      current_.clear();
    }
    if (!removed && !stop.stop_requested()) logError("{}", removed.error());
  }
}

}  // namespace userpod

#include "daemon/storage/overlay.hpp"

#include <fmt/format.h>
#include <sched.h>
#include <sys/mount.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <optional>
#include <set>
#include <thread>

#include "daemon/sys/fd.hpp"
#include "daemon/sys/log.hpp"

namespace userpod::storage {

namespace {

constexpr std::size_t kLongestOptions = 4095;  // mount(2) takes a page; more is cut in silence and shows as ENOENT

// Highest first, as overlayfs wants them. It refuses a directory that comes twice; the higher place hides the lower one
// completely, so only that is kept.
std::vector<std::string> stackOf(const OverlayMount& mount) {
  std::vector<std::string> stack;
  std::set<std::string> seen;
  for (auto name = mount.layers.rbegin(); name != mount.layers.rend(); ++name)
    if (seen.insert(*name).second) stack.push_back(*name);
  return stack;
}

Error mountError(const OverlayMount& mount, std::string_view step, int code) {
  std::string hint;
  if (code == EPERM || code == ENODEV)
    hint = "; overlay mounts in a user namespace need kernel 5.11 or later (and with SELinux 5.13): see userpodctl doctor";
  return Error(code == ENOSPC ? Code::NoSpace : Code::StorageFailed,
               fmt::format("{}{}", sysError(fmt::format("mount overlay on {} ({})", mount.target, step), code).text(), hint), code);
}

// The kernel's own words from the mount context, when it has some.
std::string contextMessage(int context) {
  std::string text(512, '\0');
  ssize_t size = ::read(context, text.data(), text.size());
  if (size <= 2) return {};
  text.resize(static_cast<std::size_t>(size));
  while (!text.empty() && text.back() == '\n') text.pop_back();
  return text.substr(2);
}

Result<bool> setDirectory(int context, const char* key, int directory, const std::string& path) {
  USERPOD_TRY(fd, openAt(directory, path, O_PATH | O_DIRECTORY));
  if (::fsconfig(context, FSCONFIG_SET_FD, key, nullptr, fd.get()) == 0) return true;
  if (errno == EOPNOTSUPP || errno == EINVAL) return false;
  return sysError(fmt::format("overlay {}={}", key, path));
}

// false: this kernel's overlayfs does not take descriptors.
Result<bool> mountByDescriptors(const OverlayMount& mount, const std::vector<std::string>& stack) {
  UniqueFd context(::fsopen("overlay", FSOPEN_CLOEXEC));
  if (!context) return mountError(mount, "fsopen", errno);
  auto set = [&](unsigned command, const char* key) { return ::fsconfig(context.get(), command, key, nullptr, 0) == 0; };
  if (!set(FSCONFIG_SET_FLAG, "userxattr")) return mountError(mount, "userxattr", errno);
  USERPOD_TRY(layers, openFile(mount.layersDirectory, O_PATH | O_DIRECTORY));
  for (const auto& name : stack) {
    USERPOD_TRY(taken, setDirectory(context.get(), "lowerdir+", layers.get(), name));
    if (!taken) return false;
  }
  if (!mount.upper.empty()) {
    for (const auto& [key, path] : {std::pair{"upperdir", &mount.upper}, std::pair{"workdir", &mount.work}}) {
      USERPOD_TRY(taken, setDirectory(context.get(), key, AT_FDCWD, *path));
      if (!taken) return false;
    }
    if (!set(FSCONFIG_SET_FLAG, "volatile")) return mountError(mount, "volatile", errno);
  }
  if (!set(FSCONFIG_CMD_CREATE, nullptr)) {
    int code = errno;
    return mountError(mount, fmt::format("create; {}", contextMessage(context.get())), code);
  }
  unsigned attributes = mount.upper.empty() ? MOUNT_ATTR_RDONLY : 0;
  UniqueFd made(::fsmount(context.get(), FSMOUNT_CLOEXEC, attributes));
  if (!made) return mountError(mount, "fsmount", errno);
  if (::move_mount(made.get(), "", AT_FDCWD, mount.target.c_str(), MOVE_MOUNT_F_EMPTY_PATH) < 0)
    return mountError(mount, "move_mount", errno);
  return true;
}

Status mountByNames(const OverlayMount& mount, const std::vector<std::string>& stack) {
  std::string options = fmt::format("userxattr,lowerdir={}", fmt::join(stack, ":"));
  if (!mount.upper.empty()) options += fmt::format(",volatile,upperdir={},workdir={}", mount.upper, mount.work);
  if (options.size() > kLongestOptions)
    return Error(Code::StorageFailed, fmt::format("{} layers are more than this kernel's overlayfs takes: 6.13 or later does",
                                                  stack.size()));
  Status done;
  // The working directory belongs to the process; a thread can have its own, but not give it back: so one of its own.
  std::thread([&] {
    if (::unshare(CLONE_FS) < 0 || ::chdir(mount.layersDirectory.c_str()) < 0) {
      done = sysError("enter " + mount.layersDirectory);
      return;
    }
    unsigned long flags = mount.upper.empty() ? MS_RDONLY : 0;
    if (::mount("overlay", mount.target.c_str(), "overlay", flags, options.c_str()) < 0) done = mountError(mount, "mount", errno);
  }).join();
  return done;
}

}  // namespace

Status mountOverlay(const OverlayMount& mount) {
  auto stack = stackOf(mount);
  if (stack.empty()) return Error(Code::ImageInvalid, "an image without layers cannot be mounted");
  USERPOD_TRY(mounted, mountByDescriptors(mount, stack));
  if (mounted) return {};
  return mountByNames(mount, stack);
}

}  // namespace userpod::storage

// Native overlayfs inside a user namespace.
#include <fmt/format.h>
#include <sched.h>
#include <sys/mount.h>
#include <unistd.h>

#include <cerrno>
#include <thread>

#include "daemon/storage/driver.hpp"
#include "daemon/sys/fd.hpp"
#include "daemon/sys/log.hpp"

namespace userpod::storage {

namespace {

constexpr std::size_t kLongestOptions = 4095;  // mount(2) takes a page; more is cut in silence and shows as ENOENT

Error mountError(const RootPlan& plan, std::string_view step, int code) {
  std::string hint;
  if (code == EPERM || code == ENODEV)
    hint =
        "; overlay mounts in a user namespace need kernel 5.11 or later (and with SELinux 5.13): see userpodctl doctor";
  return Error(
      code == ENOSPC ? Code::NoSpace : Code::StorageFailed,
      fmt::format("{}{}", sysError(fmt::format("mount overlay on {} ({})", plan.target(), step), code).text(), hint),
      code);
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
Result<bool> mountByDescriptors(const RootPlan& plan, const std::vector<std::string>& stack) {
  UniqueFd context(::fsopen("overlay", FSOPEN_CLOEXEC));
  if (!context) return mountError(plan, "fsopen", errno);
  auto set = [&](unsigned command, const char* key) {
    return ::fsconfig(context.get(), command, key, nullptr, 0) == 0;
  };
  if (!set(FSCONFIG_SET_FLAG, "userxattr")) return mountError(plan, "userxattr", errno);
  USERPOD_TRY(layers, openFile(plan.layersDirectory, O_PATH | O_DIRECTORY));
  std::vector<std::pair<const char*, std::string>> directories;
  if (plan.readOnly) directories.emplace_back("lowerdir+", plan.upper());
  for (const auto& name : stack) directories.emplace_back("lowerdir+", name);
  if (!plan.readOnly) directories.insert(directories.end(), {{"upperdir", plan.upper()}, {"workdir", plan.work()}});
  if (!plan.label.empty() && ::fsconfig(context.get(), FSCONFIG_SET_STRING, "context", plan.label.c_str(), 0) < 0)
    return mountError(plan, "context=" + plan.label, errno);
  for (const auto& [key, path] : directories) {
    USERPOD_TRY(taken, setDirectory(context.get(), key, layers.get(), path));
    if (!taken) return false;
  }
  // What a container wrote does not outlive its machine: nothing has to be written to disk for it.
  if (!plan.readOnly && !set(FSCONFIG_SET_FLAG, "volatile")) return mountError(plan, "volatile", errno);
  if (!set(FSCONFIG_CMD_CREATE, nullptr)) {
    int code = errno;
    return mountError(plan, fmt::format("create; {}", contextMessage(context.get())), code);
  }
  UniqueFd made(::fsmount(context.get(), FSMOUNT_CLOEXEC, 0));
  if (!made) return mountError(plan, "fsmount", errno);
  if (::move_mount(made.get(), "", AT_FDCWD, plan.target().c_str(), MOVE_MOUNT_F_EMPTY_PATH) < 0)
    return mountError(plan, "move_mount", errno);
  return true;
}

Status mountByNames(const RootPlan& plan, const std::vector<std::string>& stack) {
  std::string own = plan.directoryFromLayers();
  std::string options = plan.readOnly ? fmt::format("userxattr,lowerdir={}/upper:{}", own, fmt::join(stack, ":"))
                                      : fmt::format("userxattr,volatile,lowerdir={},upperdir={}/upper,workdir={}/work",
                                                    fmt::join(stack, ":"), own, own);
  if (!plan.label.empty()) options += ",context=\"" + plan.label + "\"";
  if (options.size() > kLongestOptions)
    return Error(
        Code::StorageFailed,
        fmt::format("{} layers are more than this kernel's overlayfs takes: 6.13 or later does", stack.size()));
  Status done;
  // The working directory belongs to the process; a thread can have its own, but not give it back: so one of its own.
  std::thread([&] {
    if (::unshare(CLONE_FS) < 0 || ::chdir(plan.layersDirectory.c_str()) < 0) {
      done = sysError("enter " + plan.layersDirectory);
      return;
    }
    if (::mount("overlay", plan.target().c_str(), "overlay", 0, options.c_str()) < 0)
      done = mountError(plan, "mount", errno);
  }).join();
  return done;
}

// With userxattr, and volatile where it is written. Descriptors through the new mount calls where the kernel takes them
// (6.13 and later), else one option string of short names, relative to the layers: it must fit a page.
class NativeOverlay final : public Driver {
 public:
  std::string name() const override { return "overlay"; }
  Status mount(const RootPlan& plan) override {
    USERPOD_TRY(stack, stackOf(plan));
    USERPOD_CHECK(makeUpper(plan));
    USERPOD_TRY(mounted, mountByDescriptors(plan, stack));
    if (mounted) return {};
    return mountByNames(plan, stack);
  }
};

}  // namespace

std::unique_ptr<Driver> makeNativeOverlay() {
  return std::make_unique<NativeOverlay>();
}

}  // namespace userpod::storage

#include "policy/lsm.hpp"

#include <dirent.h>
#include <fcntl.h>
#include <fmt/core.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <cerrno>
#include <memory>
#include <thread>

#include "daemon/sys/fd.hpp"
#include "daemon/sys/util.hpp"

namespace userpod::policy {
namespace {

constexpr const char* kLabel = "security.selinux";
constexpr int kDepth = 512;

bool fileStartsWith(const char* path, std::string_view text) {
  auto content = readFile(path, 4096);
  return content && content->starts_with(text);
}

// An extended attribute needs a descriptor that is open for reading, which a device or a pipe must not be: so by the
// name of one that is open for nothing.
Status labelOne(const UniqueFd& file, const std::string& path, const std::string& label) {
  std::string name = fmt::format("/proc/self/fd/{}", file.get());
  std::string have(label.size() + 2, '\0');
  ssize_t size = ::getxattr(name.c_str(), kLabel, have.data(), have.size());
  if (size > 0 && std::string_view(have.c_str()) == label) return {};
  if (::setxattr(name.c_str(), kLabel, label.c_str(), label.size() + 1, 0) == 0) return {};
  int reason = errno;
  auto error = sysError("relabel " + path + " to " + label, reason);
  return reason == EPERM || reason == EACCES ? std::move(error).as(Code::AccessDenied) : std::move(error);
}

Status labelTree(UniqueFd file, const std::string& path, const std::string& label, int depth) {
  USERPOD_CHECK(labelOne(file, path, label));
  struct stat info{};
  if (::fstat(file.get(), &info) < 0) return sysError("stat " + path);
  if (!S_ISDIR(info.st_mode)) return {};
  if (depth > kDepth)
    return Error(Code::LimitsExceeded, "relabel " + path + ": more directories in each other than 512");
  USERPOD_TRY(list, openAt(file.get(), ".", O_RDONLY | O_DIRECTORY));
  std::unique_ptr<DIR, int (*)(DIR*)> directory(::fdopendir(list.release()), &::closedir);
  if (!directory) return sysError("read " + path);
  while (const dirent* entry = ::readdir(directory.get())) {
    std::string name = entry->d_name;
    if (name == "." || name == "..") continue;
    auto below = openAt(file.get(), name, O_PATH | O_NOFOLLOW);
    if (!below && below.error().sysErrno() == ENOENT) continue;  // gone meanwhile
    if (!below) return std::move(below).error();
    // By that name a link would be followed; it has nothing to read anyway.
    if (entry->d_type != DT_LNK) USERPOD_CHECK(labelTree(std::move(*below), path + "/" + name, label, depth + 1));
  }
  return {};
}

class Host final : public SecurityModules {
 public:
  bool hasAppArmor() const override { return fileStartsWith("/sys/module/apparmor/parameters/enabled", "Y"); }

  // The kernel registers its file system only where SELinux was not switched off at boot. Before a policy is loaded
  // every process has the context "kernel".
  bool hasSelinux() const override {
    auto known = readFile("/proc/filesystems", 64 << 10);
    auto own = readFile("/proc/self/attr/current", 4096);
    return known && known->find("\tselinuxfs\n") != std::string::npos && own && own->find(':') != std::string::npos;
  }

  Status tryAppArmor(const std::string& profile) const override {
    Status tried;
    std::thread([&] { tried = writeFile("/proc/thread-self/attr/apparmor/exec", "exec " + profile); }).join();
    if (tried) return {};
    int reason = tried.error().sysErrno();
    if (reason == ENOENT)
      return Error(Code::NotSupported,
                   "AppArmor profile " + profile +
                       " is not loaded; only root can load one (apparmor_parser), so let an "
                       "administrator do it, or ask for RuntimeDefault or Unconfined",
                   reason);
    return std::move(tried)
        .error()
        .wrap("AppArmor profile " + profile + " cannot be applied by this user")
        .as(Code::AccessDenied);
  }

  Status relabel(const std::string& path, const std::string& label) const override {
    USERPOD_TRY(top, openFile(path, O_PATH));
    return labelTree(std::move(top), path, label, 0);
  }
};

}  // namespace

const SecurityModules& hostSecurityModules() {
  static const Host host;
  return host;
}

}  // namespace userpod::policy

// Devices: an unprivileged user makes no device nodes, so those of the node are bound, as far as the user may open
// them.
#include <dirent.h>
#include <fmt/core.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <memory>

#include "daemon/oci/spec.hpp"

namespace userpod::oci {
namespace {

// The runtime gives these to every container, or they belong to the terminal that is the container's own.
constexpr std::array kOwn = {"/dev/null",    "/dev/zero",   "/dev/full",   "/dev/random",   "/dev/urandom", "/dev/tty",
                             "/dev/console", "/dev/ptmx",   "/dev/pts",    "/dev/shm",      "/dev/mqueue",  "/dev/fd",
                             "/dev/stdin",   "/dev/stdout", "/dev/stderr", "/dev/hugepages"};
constexpr int kDepth = 4;

bool isDevice(const struct stat& info) {
  return S_ISCHR(info.st_mode) || S_ISBLK(info.st_mode);
}

void bindDevice(SpecParts& parts, const std::string& source, const std::string& target) {
  for (const auto& mount : parts.spec["mounts"])
    if (mount["destination"] == target) return;
  parts.spec["mounts"].push_back({{"destination", target},
                                  {"type", "bind"},
                                  {"source", source},
                                  {"options", {"bind", "rprivate", "nosuid", "noexec"}}});
}

// What this user cannot open is left out: a privileged container here is root of the node, not of the machine.
void bindTree(SpecParts& parts, const std::string& source, const std::string& target, int depth) {
  std::unique_ptr<DIR, int (*)(DIR*)> directory(::opendir(source.c_str()), &::closedir);
  if (!directory || depth > kDepth) return;
  while (const dirent* entry = ::readdir(directory.get())) {
    std::string name = entry->d_name;
    std::string path = source + "/" + name;
    if (name == "." || name == ".." || std::find(kOwn.begin(), kOwn.end(), path) != kOwn.end()) continue;
    struct stat info{};
    if (::lstat(path.c_str(), &info) < 0) continue;
    if (S_ISDIR(info.st_mode))
      bindTree(parts, path, target + "/" + name, depth + 1);
    else if (isDevice(info) && ::access(path.c_str(), R_OK | W_OK) == 0)
      bindDevice(parts, path, target + "/" + name);
  }
}

}  // namespace

Status addDevice(SpecParts& parts, const DeviceConfig& device) {
  struct stat info{};
  if (::stat(device.hostPath.c_str(), &info) < 0)
    return sysError("device " + device.hostPath).as(Code::InvalidArgument);
  std::string target = device.containerPath.empty() ? device.hostPath : device.containerPath;
  if (S_ISDIR(info.st_mode)) {
    bindTree(parts, device.hostPath, target, 0);
    return {};
  }
  if (!isDevice(info))
    return Error(Code::InvalidArgument, "device " + device.hostPath + " is not a device; use a mount");
  bool write = device.permissions.empty() || device.permissions.find('w') != std::string::npos;
  if (::access(device.hostPath.c_str(), write ? R_OK | W_OK : R_OK) < 0)
    return Error(Code::AccessDenied,
                 fmt::format("device {}: this user may not open it; let an administrator add the user to its group",
                             device.hostPath),
                 errno);
  if (!write)
    parts.input.warnings.push_back("device " + device.hostPath + ": read-only access cannot be enforced without root");
  if (std::find(kOwn.begin(), kOwn.end(), target) == kOwn.end()) bindDevice(parts, device.hostPath, target);
  return {};
}

Status addDevices(SpecParts& parts) {
  const auto& config = parts.input.container.config;
  if (config.security.privileged) bindTree(parts, "/dev", "/dev", 0);
  for (const auto& device : config.devices) USERPOD_CHECK(addDevice(parts, device));
  return {};
}

}  // namespace userpod::oci

// mounts: those every container has, and those of the request.
#include <fcntl.h>
#include <fmt/core.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <climits>
#include <cstdlib>

#include "daemon/oci/mount_source.hpp"
#include "daemon/oci/spec.hpp"
#include "daemon/sys/util.hpp"

namespace userpod::oci {
namespace {

using Options = std::vector<std::string>;

Json mount(const std::string& destination, const std::string& type, const std::string& source, Options options) {
  return {{"destination", destination}, {"type", type}, {"source", source}, {"options", std::move(options)}};
}

bool groupMapped(unsigned gid) {
  auto text = readFile("/proc/self/gid_map", 64 << 10);
  if (!text) return false;
  for (const auto& line : split(*text, '\n')) {
    unsigned long long inside = 0;
    unsigned long long outside = 0;
    unsigned long long count = 0;
    if (std::sscanf(line.c_str(), "%llu %llu %llu", &inside, &outside, &count) == 3 && gid >= inside &&
        gid < inside + count)
      return true;
  }
  return false;
}

bool atOrBelow(const std::string& path, const std::string& above) {
  return path == above || above == "/" || path.starts_with(above + "/");
}

std::vector<Json> kernelMounts(const SpecInput& input) {
  std::string access = input.container.config.security.privileged ? "rw" : "ro";
  Options pts = {"nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"};
  if (groupMapped(5)) pts.emplace_back("gid=5");  // tty
  return {
      mount("/proc", "proc", "proc", {"nosuid", "noexec", "nodev"}),
      mount("/dev", "tmpfs", "tmpfs", {"nosuid", "noexec", "strictatime", "mode=755", "size=65536k"}),
      mount("/dev/pts", "devpts", "devpts", pts),
      mount("/dev/mqueue", "mqueue", "mqueue", {"nosuid", "noexec", "nodev"}),
      mount("/sys", "sysfs", "sysfs", {"nosuid", "noexec", "nodev", access}),
      mount("/sys/fs/cgroup", "cgroup", "cgroup", {"nosuid", "noexec", "nodev", "relatime", access}),
      mount("/dev/shm", "bind", input.podDirectory + "/shm", {"bind", "rprivate", "rw", "nosuid", "noexec", "nodev"}),
  };
}

Result<std::vector<Json>> fileMounts(const SpecInput& input) {
  std::vector<Json> mounts;
  std::string access = input.container.config.security.readonlyRootfs ? "ro" : "rw";
  for (const char* name : {"resolv.conf", "hosts", "hostname"}) {
    std::string source = input.podDirectory + "/" + name;
    if (pathExists(source))
      mounts.push_back(mount(std::string("/etc/") + name, "bind", source,
                             {"bind", "rprivate", access, "nosuid", "noexec", "nodev"}));
  }
  // Programs look for this file to see that they run in a container.
  std::string mark = input.podDirectory + "/containerenv";
  if (auto made = openFile(mark, O_RDONLY | O_CREAT | O_NOFOLLOW, 0444); !made) return std::move(made).error();
  mounts.push_back(mount("/run/.containerenv", "bind", mark, {"bind", "rprivate", "ro", "nosuid", "noexec", "nodev"}));
  return mounts;
}

Result<std::string> propagationOption(const MountConfig& request, const std::string& source) {
  if (request.propagation == 0) return std::string("rprivate");
  USERPOD_TRY(kind, propagationOf(source));
  if (request.propagation == 2) {
    if (kind == Propagation::Shared) return std::string("rshared");
    return Error(Code::InvalidArgument,
                 "mount of " + request.hostPath +
                     ": Bidirectional propagation needs a shared mount there; make it one, or ask for HostToContainer");
  }
  if (kind == Propagation::Private)
    return Error(Code::InvalidArgument,
                 "mount of " + request.hostPath +
                     ": HostToContainer propagation needs a shared or slave mount there; ask for none");
  return std::string("rslave");
}

// Mounted already; programs in it may be run, as in the image, but not as another user.
Result<Json> volumeMount(SpecParts& parts, const std::string& target) {
  if (parts.volumesBound == parts.input.volumes.size())
    return Error(Code::Internal, "the image volume on " + target + " is not mounted");
  return mount(target, "bind", parts.input.volumes[parts.volumesBound++],
               {"bind", "rprivate", "ro", "nosuid", "nodev"});
}

Result<Json> requestedMount(SpecParts& parts, const MountConfig& request) {
  std::string target = cleanPath(request.containerPath);
  std::string named = "mount of " + (request.image.empty() ? request.hostPath : request.image) + " on " + target;
  if (request.containerPath.empty() || request.containerPath.front() != '/' || target == "/")
    return Error(Code::InvalidArgument, named + ": container_path must be absolute and below /");
  if (!isUtf8(request.hostPath) || !isUtf8(request.containerPath))
    return Error(Code::InvalidArgument, "a mount has a path that is not UTF-8, which the OCI runtime needs; rename it");
  if (!request.image.empty()) return volumeMount(parts, target);
  USERPOD_TRY(source, resolveSource(request.hostPath));
  USERPOD_CHECK(checkSource(parts.input, named, source));
  Options options = {"rbind"};
  USERPOD_TRY(propagation, propagationOption(request, source));
  options.push_back(propagation);
  if (request.recursiveReadOnly && (!request.readonly || request.propagation != 0))
    return Error(Code::InvalidArgument, named + ": recursive_read_only needs readonly and propagation Private");
  if (request.recursiveReadOnly && !parts.input.recursiveReadOnly)
    return Error(Code::RecursiveReadOnlyUnsupported,
                 named +
                     ": the runtime handler or the kernel (Linux 5.12 has it) cannot make mounts recursively "
                     "read-only; leave recursive_read_only out");
  options.emplace_back(request.recursiveReadOnly ? "rro" : request.readonly ? "ro" : "rw");
  // Mounts arrive in the container only when its root is not private itself.
  auto& root = parts.spec["linux"]["rootfsPropagation"];
  if (propagation == "rshared" || (propagation == "rslave" && root.is_null())) root = propagation;
  return mount(target, "bind", source, options);
}

// A request for a place takes the default's away; one for /dev, /sys or /proc also all defaults below it.
void dropReplaced(std::vector<Json>& defaults, const std::string& target) {
  std::erase_if(defaults, [&](const Json& entry) {
    auto place = entry["destination"].get<std::string>();
    bool whole = target == "/dev" || target == "/sys" || target == "/proc" || target == "/run";
    return place == target || (whole && atOrBelow(place, target));
  });
}

}  // namespace

Status checkSource(const SpecInput& input, const std::string& named, const std::string& source) {
  if (input.allowRuntimeDirectoryMounts ||
      (!overlapsPrivate(source, input.runtimeDirectory) && !overlapsPrivate(source, input.nodeDirectory)))
    return {};
  return Error(Code::AccessDenied,
               named + ": that is, contains or lies in userpod's own directory " + input.runtimeDirectory +
                   ", with which a container would control all others; mount something narrower, or "
                   "let userpod.toml say allow-runtime-directory-mounts = true");
}

std::string cleanPath(const std::string& path) {
  std::string result;
  for (const auto& part : split(path, '/'))
    if (!part.empty() && part != ".") result += "/" + part;
  return result.empty() ? "/" : result;
}

void sortMounts(Json& mounts) {
  std::stable_sort(mounts.begin(), mounts.end(), [](const Json& left, const Json& right) {
    auto depth = [](const Json& entry) {
      const auto& path = entry["destination"].get_ref<const std::string&>();
      return std::count(path.begin(), path.end(), '/');
    };
    return depth(left) < depth(right);
  });
}

Status addMounts(SpecParts& parts) {
  auto mounts = kernelMounts(parts.input);
  USERPOD_TRY(files, fileMounts(parts.input));
  mounts.insert(mounts.end(), files.begin(), files.end());
  std::vector<Json> requested;
  for (const auto& request : parts.input.container.config.mounts) {
    USERPOD_TRY(entry, requestedMount(parts, request));
    dropReplaced(mounts, entry["destination"].get<std::string>());
    requested.push_back(std::move(entry));
  }
  if (parts.spec["linux"]["rootfsPropagation"].is_null()) parts.spec["linux"].erase("rootfsPropagation");
  mounts.insert(mounts.end(), requested.begin(), requested.end());
  parts.spec["mounts"] = std::move(mounts);
  sortMounts(parts.spec["mounts"]);
  return {};
}

}  // namespace userpod::oci

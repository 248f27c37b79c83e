#include <dirent.h>
#include <fmt/core.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <filesystem>
#include <memory>

#include "daemon/sys/mount.hpp"
#include "userns/node_setup.hpp"
#include "userns/resolver.hpp"

namespace userpod {
namespace {

struct FixedPath {
  const char* path;    // where kubelet, CNI and the CRI expect it
  const char* parent;  // replaced by a writable copy when the path is missing
  const char* name;    // below <data>/node
};
constexpr FixedPath kFixedPaths[] = {
    {"/var/lib/kubelet", "/var/lib", "kubelet"},
    {"/var/lib/cni", "/var/lib", "cni"},
    {"/var/log/pods", "/var/log", "log-pods"},
    {"/var/log/containers", "/var/log", "log-containers"},
    {"/etc/cni", "/etc", "etc-cni"},
    {"/opt/cni", "/opt", "opt-cni"},
};

bool isDirectory(const std::string& path) {
  struct stat info{};
  return ::lstat(path.c_str(), &info) == 0 && S_ISDIR(info.st_mode);
}

Result<UniqueFd> cloneTree(const std::string& path) {
  int fd =
      ::open_tree(AT_FDCWD, path.c_str(), OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | AT_RECURSIVE | AT_SYMLINK_NOFOLLOW);
  if (fd < 0) return sysError("clone mounts of " + path);
  return UniqueFd(fd);
}

Status attachTree(int tree, const std::string& path) {
  if (::move_mount(tree, "", AT_FDCWD, path.c_str(), MOVE_MOUNT_F_EMPTY_PATH) < 0)
    return sysError("attach mounts on " + path);
  return {};
}

Result<UniqueFd> makeTmpfs() {
  UniqueFd context(::fsopen("tmpfs", FSOPEN_CLOEXEC));
  if (!context) return sysError("open a tmpfs");
  if (::fsconfig(context.get(), FSCONFIG_SET_STRING, "mode", "0755", 0) < 0 ||
      ::fsconfig(context.get(), FSCONFIG_CMD_CREATE, nullptr, nullptr, 0) < 0)
    return sysError("make a tmpfs");
  UniqueFd mount(::fsmount(context.get(), FSMOUNT_CLOEXEC, MOUNT_ATTR_NODEV | MOUNT_ATTR_NOSUID));
  if (!mount) return sysError("make a tmpfs mount");
  return mount;
}

struct HostEntry {
  std::string name;
  std::string link;  // text of a symbolic link
  UniqueFd tree;     // clone of a directory that gets a mount of its own
};

// What a copied-up directory shall show. Directories of /run get mounts (programs look at their real paths), elsewhere
// a link into .host is enough and costs no mount in every container's copy of the table.
Result<std::vector<HostEntry>> listHost(const std::string& path, bool mountDirectories) {
  std::unique_ptr<DIR, int (*)(DIR*)> directory(::opendir(path.c_str()), &::closedir);
  std::vector<HostEntry> entries;
  if (!directory && errno == ENOENT) return entries;
  if (!directory) return sysError("open " + path);
  while (const dirent* item = ::readdir(directory.get())) {
    HostEntry entry;
    entry.name = item->d_name;
    if (entry.name == "." || entry.name == ".." || entry.name == ".host") continue;
    if (path + "/" + entry.name == "/run/userpod") continue;  // the node's own
    std::string full = path + "/" + entry.name;
    struct stat info{};
    if (::lstat(full.c_str(), &info) < 0) continue;  // gone meanwhile
    if (S_ISLNK(info.st_mode)) {
      // Its own text, not a link to it: a relative one would start from .host and miss.
      std::error_code failed;
      entry.link = std::filesystem::read_symlink(full, failed);
      if (failed) continue;
    } else if (S_ISDIR(info.st_mode) && mountDirectories) {
      auto tree = cloneTree(full);
      if (!tree) continue;  // not ours to see; the host's own stays reachable below .host
      entry.tree = std::move(*tree);
    } else {
      entry.link = ".host/" + entry.name;
    }
    entries.push_back(std::move(entry));
  }
  return entries;
}

// Puts a writable tmpfs in place of a directory of the host, whose content stays visible, and live, through it. Not an
// overlay: that goes stale when the host replaces a file, and cannot cover locked mounts.
Status copyUp(const std::string& path, bool mountDirectories) {
  USERPOD_TRY(entries, listHost(path, mountDirectories));
  USERPOD_TRY(host, cloneTree(path));
  USERPOD_TRY(fresh, makeTmpfs());
  USERPOD_CHECK(attachTree(fresh.get(), path));
  if (::mkdir((path + "/.host").c_str(), 0755) < 0) return sysError("make " + path + "/.host");
  USERPOD_CHECK(attachTree(host.get(), path + "/.host"));
  for (const auto& entry : entries) {
    std::string target = path + "/" + entry.name;
    if (!entry.tree) {
      if (::symlink(entry.link.c_str(), target.c_str()) < 0) return sysError("link " + target);
      continue;
    }
    if (::mkdir(target.c_str(), 0755) < 0) return sysError("make " + target);
    USERPOD_CHECK(attachTree(entry.tree.get(), target));
  }
  return {};
}

Status mountKernelFilesystems() {
  constexpr unsigned long kFlags = MS_NOSUID | MS_NODEV | MS_NOEXEC;
  USERPOD_CHECK(mountFilesystem("proc", "proc", "/proc", kFlags));
  USERPOD_CHECK(mountFilesystem("sysfs", "sysfs", "/sys", kFlags));
  // On a fresh sysfs: cgroup2 over the host's cgroup2 is EBUSY.
  return mountFilesystem("cgroup2", "cgroup2", "/sys/fs/cgroup", kFlags);
}

// Files of the node's own in place of the links; from then on the holder keeps them as the host's are.
Status replaceEtc(const char* path, const std::string& text) {
  if (::unlink(path) < 0 && errno != ENOENT) return sysError(fmt::format("replace {}", path));
  return writeFile(path, text);
}

// Links the host's CNI plugins into the node's own /opt/cni/bin, which stays writable for plugins that pods install.
Status linkPlugins(const std::string& into) {
  std::error_code ignored;
  for (const auto& entry : std::filesystem::directory_iterator(into, ignored)) {
    std::error_code failed;
    if (entry.is_symlink() && !std::filesystem::exists(entry.path(), failed)) ::unlink(entry.path().c_str());
  }
  for (const char* source : {"/run/userpod/host/opt-cni/bin", "/usr/lib/cni", "/usr/libexec/cni"})
    for (const auto& entry : std::filesystem::directory_iterator(source, ignored)) {
      std::string target = into + "/" + entry.path().filename().string();
      if (::symlink(entry.path().c_str(), target.c_str()) < 0 && errno != EEXIST) return sysError("link " + target);
    }
  return {};
}

// The host's own CNI files stay readable below /run/userpod/host when the node's directories cover them.
Status keepHostCni(const std::string& nodeDirectory) {
  for (const auto& fixed : kFixedPaths) {
    std::string_view path = fixed.path;
    if ((path != "/etc/cni" && path != "/opt/cni") || !isDirectory(fixed.path)) continue;
    std::string keep = nodeDirectory + "/host/" + fixed.name;
    USERPOD_CHECK(makeDirectories(keep));
    USERPOD_CHECK(bindMount(fixed.path, keep));
  }
  return {};
}

Status bindFixedPaths(const Paths& paths) {
  for (const auto& fixed : kFixedPaths) {
    if (!isDirectory(fixed.parent)) continue;  // a host without /opt
    if (!isDirectory(fixed.path)) {
      // In a copied-up parent the host's entry is a link; it makes way for a directory.
      if (::unlink(fixed.path) < 0 && errno != ENOENT) return sysError(fmt::format("replace {}", fixed.path));
      if (::mkdir(fixed.path, 0755) < 0) return sysError(fmt::format("make {}", fixed.path));
    }
    USERPOD_CHECK(bindMount(paths.data + "/node/" + fixed.name, fixed.path));
  }
  // What kubelet and storage drivers in pods mount there has to reach each other and other pods: mount propagation
  // HostToContainer and Bidirectional of Kubernetes.
  if (isDirectory("/var/lib/kubelet")) USERPOD_CHECK(setPropagation("/var/lib/kubelet", MS_SHARED));
  return pathExists("/opt/cni/bin") ? linkPlugins("/opt/cni/bin") : Status();
}

// Which parents must be replaced for the fixed paths to exist.
std::vector<std::string> parentsToReplace() {
  std::vector<std::string> list = {"/etc"};
  auto add = [&](const std::string& parent) {
    for (const auto& known : list)
      if (known == parent) return;
    list.push_back(parent);
  };
  for (const auto& fixed : kFixedPaths)
    if (isDirectory(fixed.parent) && !isDirectory(fixed.path)) add(fixed.parent);
  return list;
}

Status hideKernelLog() {
  UniqueFd log(::open("/dev/kmsg", O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  // kubelet's OOM watcher ends kubelet when it cannot open the file; an empty one is what other rootless nodes give it.
  if (log || !pathExists("/dev/kmsg")) return {};
  return bindMount("/dev/null", "/dev/kmsg", false);
}

}  // namespace

Status setUpNodeMounts(const NodePlan& plan) {
  USERPOD_CHECK(setPropagation("/", MS_SLAVE | MS_REC));
  USERPOD_CHECK(mountKernelFilesystems());
  auto resolver = readFile("/etc/resolv.conf");
  auto hosts = readFile("/etc/hosts");
  USERPOD_CHECK(copyUp("/run", true));
  if (::mkdir(plan.paths.node.c_str(), 0700) < 0) return sysError("make " + plan.paths.node);
  USERPOD_CHECK(keepHostCni(plan.paths.node));
  for (const auto& parent : parentsToReplace()) USERPOD_CHECK(copyUp(parent, false));
  USERPOD_CHECK(replaceEtc("/etc/resolv.conf", nodeResolvConf(resolver ? *resolver : std::string(), plan.uplink)));
  USERPOD_CHECK(replaceEtc("/etc/hosts", nodeHosts(hosts ? *hosts : std::string(), plan.uplink)));
  USERPOD_CHECK(bindFixedPaths(plan.paths));
  return hideKernelLog();
}

}  // namespace userpod

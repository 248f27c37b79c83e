// Where images and containers lie, overlay on it, and the two devices.
#include <fcntl.h>
#include <fmt/core.h>
#include <linux/magic.h>
#include <sys/statvfs.h>
#include <sys/vfs.h>

#include <algorithm>

#include "daemon/sys/fd.hpp"
#include "userns/diagnose_checks.hpp"

namespace userpod::diagnose {
namespace {

struct FileSystem {
  long magic;
  const char* name;
};
// Servers that know nothing of the subordinate ids, or leave user attributes out. statfs(2) and the kernel's headers.
constexpr std::array kRemote = {
    FileSystem{NFS_SUPER_MAGIC, "NFS"}, FileSystem{0xff534d42, "CIFS"},   FileSystem{0xfe534d42, "SMB"},
    FileSystem{0x01021997, "9P"},       FileSystem{0x0bd00bd0, "Lustre"}, FileSystem{0x47504653, "GPFS"},
    FileSystem{0x5346414f, "AFS"},      FileSystem{0x00c36400, "Ceph"},
};

constexpr const char* kElsewhere =
    "put the data on a local disk: systemctl --user edit userpod.service userpod-node.service, in each "
    "[Service] Environment=XDG_DATA_HOME=/local/directory";

Check checkFileSystem(const Scene& scene, const std::string& directory) {
  constexpr const char* kName = "data-file-system";
  struct statfs found{};
  struct statvfs flags{};
  if (::statfs(directory.c_str(), &found) < 0 || ::statvfs(directory.c_str(), &flags) < 0)
    return error(kName, sysError(directory).text(), {});
  for (const auto& remote : kRemote)
    if (static_cast<unsigned long>(found.f_type) == static_cast<unsigned long>(remote.magic))
      return error(
          kName, fmt::format("{} is on {}, which cannot hold files of subordinate ids", scene.paths.data, remote.name),
          {kElsewhere});
  if ((flags.f_flag & ST_NOEXEC) != 0)
    return error(kName, scene.paths.data + " is mounted noexec: no program of a container could run", {kElsewhere});
  return ok(kName, scene.paths.data + " is on a local file system");
}

Check checkSpace(const Scene& scene, const std::string& directory) {
  constexpr const char* kName = "free-space";
  struct statvfs found{};
  if (::statvfs(directory.c_str(), &found) < 0) return error(kName, sysError(directory).text(), {});
  auto megabytes = static_cast<unsigned long long>(found.f_bavail) * found.f_frsize / 1'000'000;
  std::string text = fmt::format("{} MB free for {}", megabytes, scene.paths.data);
  const std::vector<std::string> hints = {
      "remove images that no container uses (userpodctl images, rmi), or other files"};
  if (found.f_files != 0 && found.f_favail < 10'000)
    return warning(kName, fmt::format("{} files can still be made below {}", found.f_favail, scene.paths.data), hints);
  if (megabytes < 100) return error(kName, text, hints);
  if (megabytes < 1000) return warning(kName, text, hints);
  return ok(kName, text);
}

Check notWanted(const char* name, const Settings& settings) {
  return ok(name, fmt::format("not needed: storage-driver = \"{}\"", settings.storageDriver));
}

Check checkOverlay(const Scene& scene, const std::string& directory) {
  constexpr const char* kName = "overlay";
  const std::string& wanted = scene.settings.storageDriver;
  if (wanted != "auto" && wanted != kName) return notWanted(kName, scene.settings);
  Probe probe = probeOverlay(directory);
  switch (probe.step) {
    case Probe::Step::Done:
      return ok(kName, "mounts and writes in a user namespace, tried in " + directory);
    case Probe::Step::Mount:
    case Probe::Step::Write: {
      std::string text = sysError("overlay in a user namespace does not work in " + directory, probe.sysErrno).text();
      const std::vector<std::string> hints = {
          "use a kernel from 5.11, and ext4, xfs or btrfs (not an overlay, NFS or FUSE) for the data", kElsewhere};
      if (wanted == kName) return error(kName, text, hints);
      return warning(kName, text + ": containers get fuse-overlayfs, which is slower, or a copy of their image", hints);
    }
    default:
      return warning(kName, sysError("not tried: no user namespace", probe.sysErrno).text(),
                     {"see the check user-namespaces"});
  }
}

Check checkFuse(const Scene& scene) {
  constexpr const char* kName = "dev-fuse";
  const std::string& wanted = scene.settings.storageDriver;
  if (wanted != "auto" && wanted != "fuse-overlayfs") return notWanted(kName, scene.settings);
  auto device = openFile("/dev/fuse", O_RDWR);
  if (device) return ok(kName, "/dev/fuse can be opened");
  const std::vector<std::string> hints = {"sudo modprobe fuse; its mode must be 0666"};
  if (wanted != "auto") return error(kName, device.error().text() + ": fuse-overlayfs cannot run", hints);
  return info(kName, device.error().text() + ": fuse-overlayfs, for hosts without native overlay, could not run",
              hints);
}

Check checkTun(const Scene& scene) {
  constexpr const char* kName = "dev-net-tun";
  if (scene.settings.uplink == "none") return ok(kName, "not needed: uplink = \"none\"");
  auto device = openFile("/dev/net/tun", O_RDWR);
  if (device) return ok(kName, "/dev/net/tun can be opened");
  return warning(kName, device.error().text() + ": pods have no way to the outside",
                 {"echo tun | sudo tee /etc/modules-load.d/tun.conf && sudo modprobe tun; its mode must be 0666"});
}

}  // namespace

std::vector<Check> checkStorage(const Scene& scene) {
  std::string directory = existingDirectory(scene.paths.data);
  return {checkFileSystem(scene, directory), checkSpace(scene, directory), checkOverlay(scene, directory),
          checkFuse(scene), checkTun(scene)};
}

}  // namespace userpod::diagnose

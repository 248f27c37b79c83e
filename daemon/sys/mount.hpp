// Mounts by system call. mount(8) is no use here: inside a user namespace it fails on the host's utab.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "daemon/sys/fd.hpp"

namespace userpod {

// mount(2): flags MS_*.
Status mountFilesystem(const std::string& type, const std::string& source, const std::string& target,
                       unsigned long flags, const std::string& data = {});
// Recursive by default: a tree with locked children can only be bound whole.
Status bindMount(const std::string& source, const std::string& target, bool recursive = true);
Status remountReadOnly(const std::string& target);  // of a bind mount; keeps the flags that a user namespace has locked
Status moveMount(const std::string& source, const std::string& target);
Status setPropagation(const std::string& target, unsigned long flags);  // MS_PRIVATE, MS_SLAVE, MS_SHARED, with MS_REC
// MNT_DETACH; not mounted or missing is success.
Status unmountDetached(const std::string& target);
Result<bool> isMountPoint(const std::string& path);  // by statx STATX_ATTR_MOUNT_ROOT

struct MountPoint {
  std::string target;   // absolute
  std::string type;     // of its file system: "overlay", "nsfs"
  bool shared = false;  // with others: both may be
  bool slave = false;
};
// The text of /proc/PID/mountinfo: proc(5). Lines that are none are left out.
std::vector<MountPoint> parseMountinfo(std::string_view text);
Result<std::vector<MountPoint>> readMounts();  // of this process's namespace, later ones later
// What is mounted below these directories, named as they name it: the kernel names it without links. Those that do not
// exist have nothing below them.
Result<std::vector<MountPoint>> mountsBelow(const std::vector<std::string>& directories);

}  // namespace userpod

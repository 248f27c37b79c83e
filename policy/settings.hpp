// What the user may decide (userpod.toml) and where things lie (XDG directories). What each setting means, and when a
// change of it counts, stands in the table of policy/settings_keys.cpp.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "daemon/sys/error.hpp"

namespace userpod {

// All paths are absolute, without a trailing slash, and equal inside and outside the node unless said otherwise.
struct Paths {
  std::string runtime;  // $XDG_RUNTIME_DIR/userpod: live state, gone at reboot and logout
  std::string data;     // $XDG_DATA_HOME/userpod: images, layers, writable layers of containers
  std::string config;   // $XDG_CONFIG_HOME/userpod
  std::string node;     // /run/userpod: only inside the node, on the node's own tmpfs: namespace pins, crun's own mount

  std::string criSocket() const { return runtime + "/cri.sock"; }
  std::string liveDatabase() const { return runtime + "/live.db"; }
  std::string imageDatabase() const { return data + "/images.db"; }
  std::string nodeState() const { return runtime + "/node"; }  // written by the holder: see userns/node.hpp
  std::string podDirectory(const std::string& id) const { return runtime + "/pods/" + id; }
  std::string containerDirectory(const std::string& id) const { return runtime + "/containers/" + id; }  // OCI bundle
  std::string exits() const { return runtime + "/exits"; }  // conmon's exit files, one watch for all
  std::string pin(const std::string& podId) const { return node + "/ns/" + podId; }  // net, ipc, uts, shm
  std::string podLogs() const { return "/var/log/pods"; }  // in the node: bound from the data directory
};

// From the environment; XDG_RUNTIME_DIR missing is an error that says how to get one (a login session, linger).
Result<Paths> userPaths();

struct RuntimeHandler {
  std::string path;  // of the OCI runtime
};

// RLIMIT_NOFILE of a container's processes. Programs written for a service manager raise the soft limit themselves;
// servers in images that were made on Docker, containerd 1.x or CRI-O do not, as both limits are 1048576 there: a soft
// limit of 1024, as containerd 2 passes on from systemd, has stopped databases, proxies and .NET programs. On the other
// side are old programs that close every descriptor up to the limit: a million takes them some 50 ms, the 2^30 of
// "infinity" minutes. So a million, and no more than this user may have, which is often systemd's 524288.
struct FileLimit {
  std::uint64_t soft = 1U << 20;
  std::uint64_t hard = 1U << 20;
};

struct Settings {
  std::string logLevel = "info";
  std::string uplink = "auto";
  std::string pasta;        // empty: found in PATH
  std::string slirp4netns;  // empty: found in PATH
  bool hostLoopback = false;
  std::string network = "bridge";             // or cni
  std::string subnet = "10.88.0.0/16";        // its first address is the bridge's
  std::string subnet6 = "fd75:7064:88::/64";  // empty: pods have none
  std::int64_t addressReuseDelay = 30;        // seconds
  std::vector<std::string> cniConfigDirs;     // empty: <config>/../cni/net.d, then /etc/cni/net.d
  std::vector<std::string> cniPluginDirs = {"/opt/cni/bin", "/usr/lib/cni", "/usr/libexec/cni"};
  std::string cniNetwork;                 // empty: of the first file
  std::int64_t cniTimeout = 60;           // seconds
  std::int64_t privilegedPortOffset = 0;  // 0: ports below 1024 are refused
  std::string storageDriver = "auto";     // or overlay, fuse-overlayfs, copy
  std::string defaultRuntime = "crun";
  std::map<std::string, RuntimeHandler> runtimes;  // empty path: found in PATH
  std::string conmon;                              // empty: found in PATH
  std::int64_t imageSizeLimit = 64LL << 30;        // bytes; of the three limits 0 is none
  std::int64_t imageEntriesLimit = 5'000'000;
  std::int64_t imageRatioLimit = 250;
  std::vector<std::string> pinnedImages;
  bool ignoreChownErrors = false;
  std::int64_t pullStallTimeout = 30;  // seconds; 0: none
  FileLimit nofile;
  bool nofileSet = false;  // not the default: then one that cannot be had is worth a warning
  bool allowRuntimeDirectoryMounts = false;
  std::vector<std::string> cdiSpecDirs = {"/etc/cdi", "/var/run/cdi"};  // and <config>/cdi
  std::vector<std::string> hooksDirs;
  std::int64_t pidsLimit = 0;  // 0: none
};

// The settings in force, shared: copies are the same. Any thread. Whoever needs several of them at once takes one
// current() and reads that; it never changes. What is kept beyond one operation is as old as when it was taken.
class LiveSettings {
 public:
  LiveSettings(Settings first = {}) : shared_(std::make_shared<Shared>()) { replace(std::move(first)); }

  std::shared_ptr<const Settings> current() const {
    std::lock_guard lock(shared_->mutex);
    return shared_->settings;
  }
  void replace(Settings next) {
    auto settings = std::make_shared<const Settings>(std::move(next));
    std::lock_guard lock(shared_->mutex);
    shared_->settings.swap(settings);
  }

 private:
  struct Shared {
    std::mutex mutex;
    std::shared_ptr<const Settings> settings;  // guarded by mutex
  };
  std::shared_ptr<Shared> shared_;
};

// $XDG_CONFIG_HOME/userpod
std::string configDirectory();

// The settings of all files, see policy/configuration.hpp; ConfigInvalid with the first problem.
Result<Settings> loadSettings(const Paths& paths);

}  // namespace userpod

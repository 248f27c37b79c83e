// What the user may decide (userpod.toml) and where things lie (XDG directories). Read once at start.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <map>
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
  std::string logLevel = "info";              // error, warning, notice, info, debug
  std::string uplink = "auto";                // auto (pasta where the installed one is able, else slirp4netns), pasta,
                                              // slirp4netns, none
  std::string pasta;                          // empty: found in PATH
  std::string slirp4netns;                    // empty: found in PATH
  bool hostLoopback = false;                  // whether the node and its pods reach services on the host's 127.0.0.1
  std::string network = "bridge";             // of pods: bridge (the built-in one), cni
  std::string subnet = "10.88.0.0/16";        // of pods on the built-in bridge; its first address is the bridge's
  std::string subnet6 = "fd75:7064:88::/64";  // the same for IPv6; empty: pods have none
  std::int64_t addressReuseDelay = 30;        // seconds until a freed pod address is given out again
  std::vector<std::string> cniConfigDirs;     // empty: <config>/../cni/net.d, then /etc/cni/net.d
  std::vector<std::string> cniPluginDirs = {"/opt/cni/bin", "/usr/lib/cni", "/usr/libexec/cni"};
  std::string cniNetwork;                 // name of the pods' network; empty: of the first file
  std::int64_t cniTimeout = 60;           // seconds that one plugin may take
  std::int64_t privilegedPortOffset = 0;  // added on the host to host ports below 1024; 0: they are refused
  std::string storageDriver = "auto";     // auto, overlay, fuse-overlayfs, copy
  std::string defaultRuntime = "crun";
  std::map<std::string, RuntimeHandler> runtimes;  // empty path: found in PATH
  std::string conmon;                              // empty: found in PATH
  std::int64_t imageSizeLimit = 64LL << 30;        // bytes that a pull may unpack; 0: no limit
  std::int64_t imageEntriesLimit = 5'000'000;      // files, directories and links that a pull may unpack; 0: no limit
  std::int64_t imageRatioLimit = 250;              // a layer above 256 MiB to its compressed size; 0: no limit
  std::vector<std::string> pinnedImages;     // names that are kept from removal by others; "*" at the end, or at both
  bool ignoreChownErrors = false;            // owners that the node's user namespace does not have become its root
  std::int64_t pullStallTimeout = 30;        // seconds in which a registry may send (almost) nothing
  FileLimit nofile;                          // of containers
  bool nofileSet = false;                    // by the user: then one that cannot be had is worth a warning
  bool allowRuntimeDirectoryMounts = false;  // such a container controls all others
  std::vector<std::string> cdiSpecDirs = {"/etc/cdi", "/var/run/cdi"};  // and <config>/cdi; later ones win
  std::vector<std::string> hooksDirs;                                   // of hook files: oci-hooks(5)
  std::int64_t pidsLimit = 0;  // per container when the request has none; 0: no limit
};

// Defaults, then /etc/userpod/userpod.toml, then <config>/userpod.toml, then <config>/userpod.toml.d/*.toml in order.
// An unknown key or a wrong type is ConfigInvalid and names file, line and key.
Result<Settings> loadSettings(const Paths& paths);

}  // namespace userpod

// What userpod knows of pods, containers and images: plain values, kept in the stores, published in snapshots and
// translated by the front ends. Optional values are absent when the request did not say them.
#pragma once

#include <algorithm>
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

namespace userpod {

using StringMap = std::map<std::string, std::string>;

// Who made it. Desktop objects are hidden from CRI lists: kubelet would remove them as unknown.
enum class Origin { Cri, Desktop };

enum class NamespaceMode { Pod = 0, Container = 1, Node = 2, Target = 3 };  // numbers of the CRI

struct SecurityProfile {
  enum class Type { RuntimeDefault = 0, Unconfined = 1, Localhost = 2 };  // numbers of the CRI
  Type type = Type::RuntimeDefault;
  std::string localhostRef;
};

struct SelinuxOptions {  // empty: the usual one of a container
  std::string user, role, type, level;
};

struct DnsConfig {
  std::vector<std::string> servers;
  std::vector<std::string> searches;
  std::vector<std::string> options;
};

struct PortMapping {
  int protocol = 0;  // 0 TCP, 1 UDP, 2 SCTP
  std::int32_t containerPort = 0;
  std::int32_t hostPort = 0;  // 0: no mapping
  std::string hostIp;
};

struct Resources {
  std::int64_t cpuPeriod = 0;  // microseconds; 0 in every field: not set
  std::int64_t cpuQuota = 0;
  std::int64_t cpuShares = 0;
  std::int64_t memoryLimit = 0;  // bytes
  std::int64_t memorySwapLimit = 0;
  std::int64_t oomScoreAdj = 0;
  std::string cpusetCpus;
  std::string cpusetMems;
  std::map<std::string, std::uint64_t> hugepageLimits;  // page size -> bytes
  StringMap unified;                                    // cgroup v2 file -> value
};

struct NamespaceOptions {
  NamespaceMode network = NamespaceMode::Pod;
  NamespaceMode pid = NamespaceMode::Pod;
  NamespaceMode ipc = NamespaceMode::Pod;
  std::string targetId;
};

struct PodSecurity {
  NamespaceOptions namespaces;
  std::optional<std::int64_t> runAsUser;
  std::optional<std::int64_t> runAsGroup;
  std::vector<std::int64_t> supplementalGroups;
  bool readonlyRootfs = false;
  bool privileged = false;
  std::optional<SecurityProfile> seccomp;
  std::optional<SecurityProfile> apparmor;
  std::optional<SelinuxOptions> selinux;
};

struct PodConfig {
  std::string name;
  std::string uid;
  std::string nameSpace;
  std::uint32_t attempt = 0;
  std::string hostname;
  std::string logDirectory;
  std::optional<DnsConfig> dns;  // absent: the node's resolv.conf
  std::vector<PortMapping> ports;
  StringMap labels;
  StringMap annotations;
  std::string cgroupParent;
  StringMap sysctls;
  PodSecurity security;
  std::optional<Resources> overhead;
  std::optional<Resources> resources;
};

struct PodRecord {
  enum class State { Creating, Ready, NotReady };
  std::string id;  // 64 hex digits
  PodConfig config;
  Origin origin = Origin::Cri;
  State state = State::Creating;
  std::string runtimeHandler;          // as requested: may be empty
  std::int64_t createdAt = 0;          // nanoseconds since the epoch
  std::vector<std::string> addresses;  // textual, primary first; empty for the node's network
  std::string node;                    // userns::Node::instance() it was made in: another one means that it is gone
  std::string cgroup;                  // of the pod, below the node's cgroup root, "/pods/<id>" or the given parent
  std::int32_t pausePid = 0;           // first process of the PID namespace that its containers share; 0: there is none
  std::uint64_t pauseStart = 0;        // field 22 of its /proc/PID/stat
  bool endedWithNode = false;          // it was ready when its node ended
};

struct MountConfig {
  std::string containerPath;
  std::string hostPath;
  bool readonly = false;
  bool recursiveReadOnly = false;
  bool selinuxRelabel = false;
  int propagation = 0;  // 0 private, 1 host to container, 2 bidirectional
  std::string image;    // an image volume, instead of hostPath
  std::string imageSubPath;
  std::string imageId;  // what image was resolved to
};

struct DeviceConfig {
  std::string containerPath;
  std::string hostPath;
  std::string permissions;  // subset of "rwm"
};

struct CapabilityConfig {
  std::vector<std::string> add;
  std::vector<std::string> drop;
  std::vector<std::string> addAmbient;
};

struct ContainerSecurity {
  CapabilityConfig capabilities;
  bool privileged = false;
  NamespaceOptions namespaces;
  std::optional<std::int64_t> runAsUser;
  std::string runAsUsername;
  std::optional<std::int64_t> runAsGroup;
  std::vector<std::int64_t> supplementalGroups;
  bool strictGroups = false;  // supplemental_groups_policy Strict
  bool readonlyRootfs = false;
  bool noNewPrivs = false;
  std::vector<std::string> maskedPaths;
  std::vector<std::string> readonlyPaths;
  std::optional<SecurityProfile> seccomp;  // absent: unconfined
  std::optional<SecurityProfile> apparmor;
  std::optional<SelinuxOptions> selinux;
};

struct ContainerConfig {
  std::string name;
  std::uint32_t attempt = 0;
  std::string image;               // as the client wrote it (usually an image id)
  std::string userSpecifiedImage;  // the tag it came from, for status
  std::vector<std::string> command;
  std::vector<std::string> args;
  std::string workingDirectory;
  std::vector<std::pair<std::string, std::string>> environment;  // values are bytes
  std::vector<MountConfig> mounts;
  std::vector<DeviceConfig> devices;
  std::vector<std::string> cdiDevices;
  StringMap labels;
  StringMap annotations;
  std::string logPath;  // relative to the pod's log directory; empty: no log
  bool stdinOpen = false;
  bool stdinOnce = false;
  bool tty = false;
  std::optional<Resources> resources;  // asked for; once the container is made, what is enforced
  ContainerSecurity security;
  int stopSignal = 0;  // number; 0: the image's, else SIGTERM
};

// The user a container's process runs as, resolved against the image's passwd and group.
struct EffectiveUser {
  std::uint32_t uid = 0;
  std::uint32_t gid = 0;
  std::vector<std::uint32_t> groups;  // additional
};

struct ContainerRecord {
  enum class State { Creating, Created, Running, Exited, Unknown };
  std::string id;  // 64 hex digits
  std::string podId;
  ContainerConfig config;
  Origin origin = Origin::Cri;
  State state = State::Creating;
  std::string imageId;              // "sha256:<64 hex>"
  std::string imageName;            // for ContainerStatus.image.image: a tag, else the id
  std::vector<std::string> layers;  // of its root file system, lowest first, and of its image volumes: storage names
  std::string logPath;              // absolute; empty: none
  std::string cgroup;               // of the container, below the node's cgroup root
  std::vector<std::string> processArgs;
  std::string workingDirectory;
  EffectiveUser user;
  int stopSignal = 15;          // effective
  bool paused = false;          // not stored: its cgroup says so
  std::int32_t pid = 0;         // in the node's PID namespace; 0 unless created or running
  std::uint64_t pidStart = 0;   // field 22 of /proc/PID/stat, to tell a recycled pid
  std::int32_t monitorPid = 0;  // conmon's, alike
  std::int64_t createdAt = 0;   // nanoseconds since the epoch; 0: not yet
  std::int64_t startedAt = 0;
  std::int64_t finishedAt = 0;
  std::int32_t exitCode = 0;   // meaningful when finishedAt is set; 128 + signal after a signal
  std::uint64_t oomKills = 0;  // processes of it that the kernel has killed for want of memory
  std::string
      reason;  // Completed, Error, OOMKilled, StartError, RootFilesystemLost; MonitorLost, NodeEnded: nobody saw it
  std::string message;
};

// As its own image or in a volume.
inline bool usesImage(const ContainerRecord& container, const std::string& imageId) {
  return container.imageId == imageId ||
         std::any_of(container.config.mounts.begin(), container.config.mounts.end(),
                     [&](const MountConfig& mount) { return mount.imageId == imageId; });
}

struct LayerRecord {
  std::string diffId;     // "sha256:<hex>" of the uncompressed tar, or "file:..." of an artifact: the key
  std::string directory;  // name below <data>/layers
  std::int64_t size = 0;  // bytes unpacked, as counted while unpacking
  std::int64_t inodes = 0;
  std::string blob;  // "sha256:<hex>" of what was fetched for it; empty: not known
  std::int64_t unusedSince =
      0;             // nanoseconds since the epoch: fetched for a pull that has not ended well; 0: an image's
  std::string boot;  // not on disk for sure after another boot than this; empty: it is
};

struct ImageRecord {
  // "sha256:<hex>" of the config blob, of an artifact of its manifest: what the CRI calls image id and image_ref.
  std::string id;
  std::vector<std::string> repoTags;     // "host/path:tag", normalised
  std::vector<std::string> repoDigests;  // "host/path@sha256:<hex>" of the manifest or list that was pulled
  std::string manifestDigest;
  // JSON as served. Long, and seldom asked for: only the store has them, and who puts a record there.
  std::string manifest;
  std::string config;
  StringMap manifestAnnotations;
  std::vector<std::string> diffIds;  // lowest layer first
  std::int64_t size = 0;             // bytes unpacked over all layers plus config and manifest; above 0
  std::int64_t createdAt = 0;        // when pulled, nanoseconds since the epoch
  bool pinned = false;
  bool artifact = false;  // an OCI artifact: files to be mounted, nothing to be run
  // Read from config once, when pulled.
  std::string architecture;
  std::string os;
  std::string variant;
  std::string user;  // config.User, as written
  std::vector<std::string> entrypoint;
  std::vector<std::string> command;
  std::vector<std::string> environment;  // "NAME=value"
  std::string workingDirectory;
  std::string stopSignal;
  StringMap labels;
  std::vector<std::string> volumes;
};

}  // namespace userpod

// From a container's configuration to a running process: the OCI spec, conmon and the OCI runtime.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "daemon/network/network.hpp"
#include "daemon/store/model.hpp"
#include "daemon/sys/error.hpp"
#include "daemon/sys/executor.hpp"
#include "policy/lsm.hpp"
#include "policy/settings.hpp"
#include "userns/node.hpp"

namespace userpod::oci {

// Everything the spec of one container is made of. Paths are inside the node.
struct SpecInput {
  const PodRecord& pod;
  const ContainerRecord& container;  // config, cgroup, id
  const ImageRecord& image;
  std::string rootfs;  // mounted
  network::PodNamespaces namespaces;
  std::string podDirectory;  // resolv.conf, hosts, hostname, shm below it
  std::string hostname;
  std::string runtimeDirectory;       // userpod's own: a mount of it is refused, unless allowed
  std::string controllers;            // delegated ones: a limit without its controller is left out, with a warning
  std::vector<std::string> warnings;  // filled: what was asked and cannot be, in words
  FileLimit nofile;                   // clamped to what this user may have
  bool nofileSet = false;
  std::int64_t pidsLimit = 0;  // pids.max when the request has none; 0: no limit
  pid_t targetPid = 0;         // of the container whose PID namespace NamespaceMode::Target joins
  const policy::SecurityModules* modules = &policy::hostSecurityModules();
  bool recursiveReadOnly = true;               // Runtime::recursiveReadOnly of the pod's handler
  std::string nodeDirectory = "/run/userpod";  // Paths::node, alike
  bool allowRuntimeDirectoryMounts = false;
  std::vector<std::string> cdiSpecDirs = {};  // Settings::cdiSpecDirs
  std::vector<std::string> hooksDirs = {};    // Settings::hooksDirs
  std::vector<std::string> volumes;           // paths to bind, one for each mount of an image, in their order
};

// What the spec decided and status shows.
struct BuiltSpec {
  std::string json;  // config.json
  std::vector<std::string> args;
  std::string workingDirectory;
  EffectiveUser user;
  int stopSignal = 15;
  std::optional<Resources> resources;  // what is enforced of those asked for
};
// InvalidArgument names the field and the mend. Reads passwd and group in the rootfs, adds a line for a user or group
// that they lack, and /etc/mtab; makes missing host paths of mounts and the empty <podDirectory>/containerenv. Any
// worker thread. NamespaceMode::Pod for PID is what the pod has: its shared namespace, the node's, or one for each
// container.
Result<BuiltSpec> buildSpec(SpecInput& input);

// The process that keeps a pod's shared PID namespace: PID 1 in it. Nobody's child but the node's.
struct PauseProcess {
  pid_t pid = 0;  // in the node's PID namespace
  std::uint64_t start = 0;
  UniqueFd pidfd;
};
bool sharesPid(const PodConfig& config);
std::string pauseCgroup(const PodRecord& pod);  // whose removal ends it

// Whether the host has what the profile and the options need. NotSupported and AccessDenied say what is missing.
Status checkModules(const policy::SecurityModules& modules, const std::optional<SecurityProfile>& apparmor,
                    const std::optional<SelinuxOptions>& selinux);
// The SELinux label of the container's files; empty: none is asked for. Errors of checkModules().
Result<std::string> mountLabel(const policy::SecurityModules& modules, const PodRecord& pod,
                               const ContainerRecord& container);

struct CreateInput {
  std::string id;
  std::string handler;  // runtime handler name; empty: the default
  std::string bundle;   // directory with config.json
  std::string logPath;  // empty: none
  bool tty = false;
  bool stdinOpen = false;
  bool stdinOnce = false;
};
struct CreatedProcess {
  pid_t pid = 0;  // in the node's PID namespace
  std::uint64_t pidStart = 0;
  pid_t monitorPid = 0;
};

// A command inside a running container, as its user, with its environment, limits and seccomp profile.
struct ExecInput {
  std::string id;
  std::string handler;
  std::string bundle;
  std::vector<std::string> command;
  std::chrono::milliseconds timeout{0};  // 0: none
};
struct ExecResult {
  std::int32_t exitCode = 0;
  std::string out;  // at most 16 MiB each, the rest is dropped
  std::string err;
};

// A command in a running container whose streams the caller carries.
struct TerminalSize {
  std::uint16_t columns = 0;  // 0: not known
  std::uint16_t rows = 0;
};
struct ExecStart {
  std::string id;
  std::string handler;
  std::string bundle;
  std::vector<std::string> command;
  bool tty = false;  // a terminal of its own in the container; it is all three streams
  bool in = false;   // what is false is /dev/null
  bool out = false;
  bool err = false;
  TerminalSize size;  // of the terminal, before the command runs
};
// The caller's ends, close-on-exec and non-blocking: pipes, or one terminal.
struct ExecStreams {
  UniqueFd in;
  UniqueFd out;
  UniqueFd err;
  UniqueFd terminal;             // then there are no pipes
  std::function<void()> hangUp;  // SIGHUP to all that the command has started, if any lives. Any thread.
};

// A connection to a container's monitor: packets of at most 32 KiB + 1, the first byte says which stream (2: stdout or
// terminal, 3: stderr), from now on; written packets (at most 32 KiB) go to its stdin. End of file: it has ended. The
// monitor waits for a reader that does not read, and with it the container: read, or close.
struct Attachment {
  UniqueFd socket;  // SOCK_SEQPACKET, close-on-exec, non-blocking
  bool tty = false;
  bool in = false;         // the container has an open stdin
  bool stdinOnce = false;  // which ends when the first session with stdin does
};

// Drives conmon and the runtime. Blocking methods, any worker thread; exec is asynchronous on a loop of its own.
class Runtime {
 public:
  // Binds the runtimes read-only below paths.node so that they do not copy themselves at each start; asks them for
  // their version (2 ms each). HelperMissing when the default one or conmon is not there, ConfigInvalid for a bad path.
  // `node` must outlive it.
  static Result<std::unique_ptr<Runtime>> open(const Paths& paths, const Settings& settings, const NodeInside& node);
  virtual ~Runtime() = default;

  virtual bool hasHandler(const std::string& handler) const = 0;
  // Whether a mount can be read-only with all below it; false for an unknown handler. Found out when it was opened.
  virtual bool recursiveReadOnly(const std::string& handler) const = 0;
  virtual std::pair<std::string, std::string> version() const = 0;  // name and version of the default runtime
  // In the pod's cgroup and namespaces, as the user and with the groups of its security context. RuntimeFailed names
  // the step that failed.
  virtual Result<PauseProcess> startPause(const PodRecord& pod, const network::PodNamespaces& namespaces) = 0;
  // conmon in /mon/<id>, which runs `crun create`; RuntimeFailed carries the runtime's own words.
  virtual Result<CreatedProcess> create(const CreateInput& input) = 0;
  virtual Status start(const std::string& id, const std::string& handler) = 0;
  // Whether the container's process runs its own program already; before, it is the runtime that waits for start().
  virtual bool started(const std::string& handler, pid_t pid) const = 0;
  // Ends the monitor and what it was still making, then `crun delete --force`. Unknown, or half made, is fine.
  virtual Status remove(const std::string& id, const std::string& handler) = 0;
  // Ids that a runtime keeps a state of.
  virtual std::vector<std::pair<std::string, std::string>> containers() const = 0;  // id, handler
  // Returns at once. done is called once, on the exec loop's thread (or on the caller's for an unknown handler).
  // Timeout: the time was over, and the command with all it had started is killed. RuntimeFailed: the command was not
  // started (no such program), in the runtime's words. Canceled: the Runtime is being destroyed.
  virtual void exec(const ExecInput& input, std::function<void(Result<ExecResult>)> done) = 0;
  // Returns at once. Both callbacks run on the exec loop's thread (or the caller's, for an unknown handler): `started`
  // once, when the command runs, and after a success `ended` once, with the exit code, when the command has ended,
  // whoever has its pipes then. RuntimeFailed: the command was not started, in the runtime's words. The command lives
  // on when its streams are closed. Canceled: the Runtime is being destroyed; the command is hung up.
  virtual void openExec(const ExecStart& input, std::function<void(Result<ExecStreams>)> started,
                        std::function<void(Result<std::int32_t>)> ended) = 0;
};

// conmon's exit file <exits>/<id>: the code, and the file's mtime as the finish time in nanoseconds.
struct ExitRecord {
  std::int32_t code = 0;
  std::int64_t finishedAt = 0;
};
Result<std::optional<ExitRecord>> readExitFile(const Paths& paths, const std::string& id);

// memory.events oom_kill of a cgroup, 0 when there is none. Read before remove().
std::uint64_t oomKills(const NodeInside& node, const std::string& cgroup);

// Makes the container's conmon open its log anew, after a rotation has renamed it: on success there is a new file at
// logPath, and all output from now on goes there. A directory that has vanished is made again. Blocks, at most two
// seconds; one call a container at a time. NoSpace, System: no file can be made there, and the old one stays in use.
// MonitorFailed: conmon is gone. Timeout: it does not answer.
Status reopenLog(const std::string& bundle, const std::string& logPath);

// A connection to the monitor of a created or running container. MonitorFailed: there is none (it has ended).
Result<UniqueFd> connectMonitor(const std::string& bundle);
// The size of the container's terminal. MonitorFailed: conmon is gone.
Status resizeTerminal(const std::string& bundle, TerminalSize size);

// Changes limits of a created or running container, whose cgroup it is: those that `wanted` names; what is 0 or empty
// there stays as in `current`, and so do oom_score_adj and hugepage limits of 0. All or nothing. The value is what is
// enforced afterwards. Any worker thread.
// CgroupDelegationMissing: a controller is missing. NotSupported: huge pages. InvalidArgument: a limit below what is in
// use, or a value that the kernel refuses.
Result<Resources> updateResources(const NodeInside& node, const std::string& cgroup, const Resources& current,
                                  const Resources& wanted);

// What the cgroup of a pod limits: what its containers may use together, and the pod's own overhead on top. The
// overhead alone limits nothing but shares. Swap that is not said stays free: the containers have limits of their own.
Resources podLimits(const PodConfig& config);
// podLimits() for a cgroup that was just made. Limits without a controller are left out, with a warning each.
Status limitPod(const NodeInside& node, const std::string& cgroup, const PodConfig& config,
                std::vector<std::string>& warnings);

}  // namespace userpod::oci

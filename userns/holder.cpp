#include "userns/holder.hpp"

#include <fmt/core.h>
#include <grp.h>
#include <linux/magic.h>
#include <linux/sched.h>
#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/vfs.h>
#include <sys/wait.h>
#include <systemd/sd-daemon.h>
#include <unistd.h>

#include <cerrno>
#include <optional>

#include "daemon/sys/child.hpp"
#include "daemon/sys/log.hpp"
#include "daemon/sys/util.hpp"
#include "policy/configuration.hpp"
#include "userns/host_files.hpp"
#include "userns/idmap.hpp"
#include "userns/node.hpp"
#include "userns/node_setup.hpp"
#include "userns/uplink.hpp"

namespace userpod {
namespace {

constexpr const char* kCgroups = "/sys/fs/cgroup";

// ---- PID 1 of the node ----

Status becomeRoot() {
  // After newgidmap setgroups is allowed: the user's other groups have no name inside.
  if (::setresgid(0, 0, 0) < 0 || ::setresuid(0, 0, 0) < 0) return sysError("become root of the node");
  if (::setgroups(0, nullptr) < 0) return sysError("drop supplementary groups");
  return {};
}

// The process enters the leaf by itself: seen from the new cgroup namespace it has no number that could be written.
// Then no process is left in the root, and controllers can go on there; each by its own write, as one may fail alone
// (cpu, when the user has real-time processes).
Status delegateControllers(std::string& report) {
  USERPOD_CHECK(writeFile("/sys/fs/cgroup/init/cgroup.procs", "0"));
  USERPOD_TRY(list, readFile("/sys/fs/cgroup/cgroup.controllers", 4096));
  for (const auto& controller : split(trim(list), ' '))
    if (!controller.empty())
      if (auto status = writeFile("/sys/fs/cgroup/cgroup.subtree_control", "+" + controller); !status)
        report += fmt::format("Wcontainers have no {} limits: {}\n", controller, status.error().text());
  return {};
}

Status setUpInside(const NodePlan& plan, std::string& report) {
  USERPOD_CHECK(becomeRoot());
  USERPOD_CHECK(setUpNodeMounts(plan));
  USERPOD_CHECK(delegateControllers(report));
  std::string tapProblem;
  USERPOD_CHECK(setUpNodeNetwork(plan, tapProblem));
  if (!tapProblem.empty()) report += "T" + tapProblem + "\n";
  return {};
}

// Blocked signals and sigwait, as the kernel drops what PID 1 has no handler for.
[[noreturn]] void reapForEver() {
  ::close_range(0, ~0U, 0);
  sigset_t wanted;
  sigemptyset(&wanted);
  sigaddset(&wanted, SIGTERM);
  sigaddset(&wanted, SIGCHLD);
  for (;;) {
    siginfo_t info{};
    int number = ::sigwaitinfo(&wanted, &info);
    if (number == SIGTERM) ::_exit(0);  // the kernel then ends everything in the PID namespace
    while (::waitpid(-1, nullptr, WNOHANG) > 0) {
    }
  }
}

// The report to the main process is lines: "W" warning, "T" why there is no tap, and at last "E" error or "R" ready.
[[noreturn]] void nodeInit(const NodePlan& plan, UniqueFd release, UniqueFd report) {
  ::prctl(PR_SET_PDEATHSIG, SIGKILL);
  ::prctl(PR_SET_NAME, "userpod-init");
  char byte = 0;
  if (::read(release.get(), &byte, 1) != 1) ::_exit(1);  // the main process gave up or died
  ::umask(022);
  if (::chdir("/") < 0) ::_exit(1);
  std::string text;
  auto status = setUpInside(plan, text);
  text += status ? "R" : "E" + status.error().text();
  (void)writeAll(report.get(), text);
  if (!status) ::_exit(1);
  reapForEver();
}

// ---- main process ----

struct Holder {
  Paths paths;
  Settings settings;
  NodePlan plan;
  IdMaps maps;
  std::string cgroup;  // below /sys/fs/cgroup
  Child node;
  std::string tapProblem;
  UplinkProgram program;
  UplinkProgram fallback;
};

Result<std::string> ownCgroup() {
  struct statfs info{};
  if (::statfs(kCgroups, &info) < 0 || info.f_type != CGROUP2_SUPER_MAGIC)
    return Error(
        Code::CgroupDelegationMissing,
        "/sys/fs/cgroup is not cgroup v2; boot with systemd.unified_cgroup_hierarchy=1 on the kernel's command line");
  USERPOD_TRY(text, readFile("/proc/self/cgroup", 64 << 10));
  for (const auto& line : split(text, '\n')) {
    if (!line.starts_with("0::/")) continue;
    std::string path = line.substr(3);
    std::string directory = kCgroups + path;
    if (::access((directory + "/cgroup.procs").c_str(), W_OK) < 0 || ::access(directory.c_str(), W_OK) < 0)
      return Error(Code::CgroupDelegationMissing,
                   "cgroup " + path +
                       " is not delegated to the user; start the node by: systemctl --user start "
                       "userpod-node.service (its unit has Delegate=yes)");
    return path;
  }
  return Error(Code::CgroupDelegationMissing, "this process has no cgroup v2 path in /proc/self/cgroup");
}

Status makeDirectoriesOfUser(const Paths& paths) {
  for (const auto& path : {paths.runtime, paths.nodeState(), paths.data, paths.data + "/node"})
    USERPOD_CHECK(makeDirectories(path, 0700));
  for (const char* name :
       {"kubelet", "cni", "log-pods", "log-containers", "etc-cni", "etc-cni/net.d", "opt-cni", "opt-cni/bin"})
    USERPOD_CHECK(makeDirectories(paths.data + "/node/" + name, 0755));
  for (const char* stale : {"/holder.json", "/uplink.json"}) ::unlink((paths.nodeState() + stale).c_str());
  return {};
}

// All seven at once. The cgroup namespace's root is the cgroup of this moment, so nobody has moved to a leaf yet.
Result<Child> cloneNode(const NodePlan& plan, Pipe& release, Pipe& report) {
  int pidfd = -1;
  clone_args arguments{};
  arguments.flags = CLONE_NEWUSER | CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWIPC | CLONE_NEWUTS | CLONE_NEWNET |
                    CLONE_NEWCGROUP | CLONE_PIDFD;
  arguments.pidfd = reinterpret_cast<std::uint64_t>(&pidfd);
  arguments.exit_signal = SIGCHLD;
  long pid = ::syscall(SYS_clone3, &arguments, sizeof(arguments));
  if (pid < 0) return userNamespaceError(errno);
  if (pid == 0) {
    release.write.reset();
    report.read.reset();
    nodeInit(plan, std::move(release.read), std::move(report.write));
  }
  return Child(static_cast<pid_t>(pid), UniqueFd(pidfd));
}

Status enterLeaf(const std::string& cgroup) {
  for (const char* leaf : {"/init", "/uplink"})
    if (::mkdir((kCgroups + cgroup + leaf).c_str(), 0755) < 0 && errno != EEXIST)
      return sysError("make cgroup " + cgroup + leaf);
  return writeFile(kCgroups + cgroup + "/init/cgroup.procs", "0");
}

Status readReport(Holder& holder, int fd) {
  USERPOD_TRY(text, readAll(fd, 64 << 10));
  for (const auto& line : split(text, '\n')) {
    if (line.empty()) break;
    std::string rest = line.substr(1);
    if (line[0] == 'R') return {};
    if (line[0] == 'W') logWarning("{}", rest);
    if (line[0] == 'T') holder.tapProblem = rest;
    if (line[0] != 'E') continue;
    if (auto limit = readFile("/proc/sys/kernel/apparmor_restrict_unprivileged_userns", 16);
        limit && trim(*limit) == "1")
      rest += "; " + userNamespaceError(EPERM).text();
    return Error(Code::UserNamespaceUnavailable, "set up the node: " + rest);
  }
  return Error(Code::Internal, "the node's first process ended without a word");
}

Status makeNode(Holder& holder) {
  USERPOD_TRY(release, makePipe());
  USERPOD_TRY(report, makePipe());
  USERPOD_TRY(node, cloneNode(holder.plan, release, report));
  release.read.reset();
  report.write.reset();
  USERPOD_CHECK(writeIdMaps(node.pid(), holder.maps));
  USERPOD_CHECK(enterLeaf(holder.cgroup));
  if (::write(release.write.get(), "1", 1) != 1) return sysError("release the node's first process");
  USERPOD_CHECK(readReport(holder, report.read.get()));
  holder.node = std::move(node);
  return {};
}

Status writeState(const Holder& holder) {
  HolderState state;
  state.pid = holder.node.pid();
  USERPOD_TRY(start, processStartTime(state.pid));
  state.startTime = start;
  state.instance = randomHex(16);
  state.cgroup = holder.cgroup;
  return writeFileAtomic(holder.paths.nodeState() + "/holder.json", holderStateText(state), 0600);
}

// The prefix of IPv6 addresses is the one that both programs can have, so that one may take the other's place.
void chooseProgram(Holder& holder) {
  holder.program = chooseUplink(holder.settings);
  if (holder.program.name == "pasta" && holder.settings.uplink == "auto") {
    Settings other = holder.settings;
    other.uplink = "slirp4netns";
    holder.fallback = chooseUplink(other);
  }
  bool collision = hostUsesUplinkPrefix();
  if (!collision) {
    holder.plan.prefix6 = kUplinkPrefix6;
  } else if (holder.program.name == "pasta") {
    holder.plan.prefix6 = kOtherPrefix6;
  } else {
    logWarning(
        "this host uses fd00::/64, which slirp4netns needs: the node has no IPv6; with a pasta that is able it would");
  }
}

Status prepare(Holder& holder) {
  USERPOD_TRY(paths, userPaths());
  holder.paths = paths;
  Configuration configuration = readConfiguration(paths.config);
  logProblems(configuration.problems);
  USERPOD_CHECK(configuration.status());
  holder.settings = std::move(configuration.settings);
  USERPOD_TRY(cgroup, ownCgroup());
  holder.cgroup = cgroup;
  USERPOD_TRY(maps, ownIdMaps());
  holder.maps = maps;
  std::uint64_t ids = 0;
  for (const auto& line : maps.users) ids += line.count;
  if (ids < 65536)
    logWarning("only {} user ids for the containers: images that use more fail; give the user 65536 subordinate ids",
               ids);
  USERPOD_CHECK(makeDirectoriesOfUser(paths));
  holder.plan = {paths, holder.settings.uplink != "none", ""};
  if (holder.plan.uplink) chooseProgram(holder);
  return makeNode(holder);
}

// Ends the node: TERM, then KILL; whatever lives in its PID namespace goes with it.
void endNode(Holder& holder) {
  if (!holder.node) return;
  (void)holder.node.kill(SIGTERM);
  auto ended = holder.node.waitFor(std::chrono::seconds(5));
  if (!ended || !*ended) {
    (void)holder.node.kill(SIGKILL);
    (void)holder.node.wait();
  }
}

class Loop {
 public:
  Loop(Holder& holder, UniqueFd signals) : holder_(holder), signals_(std::move(signals)) {}

  int run() {
    if (auto status = begin(); !status) {
      logError("{}", status.error());
      return finish(1);
    }
    announce();
    for (;;) {
      std::vector<pollfd> entries = {{signals_.get(), POLLIN, 0}, {holder_.node.pidfd(), POLLIN, 0}};
      if (files_.fd() >= 0) entries.push_back({files_.fd(), POLLIN, 0});
      if (uplink_) uplink_->addTo(entries);
      if (::poll(entries.data(), entries.size(), timeout()) < 0 && errno != EINTR) return finish(1);
      if (entries[1].revents != 0) {
        logError("the node's first process was killed; every container is gone");
        return finish(1);
      }
      if (entries[0].revents != 0 && stopAsked()) {
        sd_notify(0, "STOPPING=1\nSTATUS=Ending the node");
        return finish(0);
      }
      if (uplink_) uplink_->handle(entries);
      followHost();
      announce();
    }
  }

 private:
  Status begin() {
    USERPOD_CHECK(writeState(holder_));
    // What the node's first process read before the watches were there may have changed.
    writeResolver();
    writeHosts();
    if (holder_.settings.uplink == "none") return writeUplinkState(holder_.paths, {UplinkState::Phase::None, ""});
    const UplinkProgram& program = holder_.program;
    const std::string& problem =
        holder_.tapProblem.empty() && program.path.empty() ? program.reason : holder_.tapProblem;
    if (!problem.empty()) {
      logWarning("the node has no way out: {}", problem);
      return writeUplinkState(holder_.paths, {UplinkState::Phase::Down, problem, program.path, program.reason});
    }
    USERPOD_TRY(leaf, openFile(kCgroups + holder_.cgroup + "/uplink", O_RDONLY | O_DIRECTORY));
    leaf_ = std::move(leaf);
    UplinkPlan plan{holder_.node.pid(), holder_.plan.prefix6, holder_.settings.hostLoopback, nameServers(resolver())};
    uplink_.emplace(holder_.paths, leaf_.get(), program, holder_.fallback, std::move(plan));
    uplink_->start();
    return {};
  }

  int timeout() const {
    int least = -1;
    for (int time : {uplink_ ? uplink_->timeout() : -1, files_.timeout()})
      if (time >= 0 && (least < 0 || time < least)) least = time;
    return least;
  }

  // The node's files are its own, on a tmpfs of the user: no other way to them is needed.
  void writeToNode(const char* path, const std::string& text) {
    auto written = writeFileAtomic(fmt::format("/proc/{}/root{}", holder_.node.pid(), path), text);
    if (!written) logWarning("the node's {}: {}", path, written.error());
  }

  const std::string& resolver() const { return files_.text(0); }
  const std::string& hosts() const { return files_.text(1); }
  void writeResolver() { writeToNode("/etc/resolv.conf", nodeResolvConf(resolver(), holder_.plan.uplink)); }
  void writeHosts() { writeToNode("/etc/hosts", nodeHosts(hosts(), holder_.plan.uplink)); }

  void followHost() {
    if (!files_.look()) return;
    writeResolver();
    writeHosts();
    if (uplink_) uplink_->setServers(nameServers(resolver()));
  }

  // Ready when the uplink has come up or failed: the first pod then finds a network, and a host without one a node.
  void announce() {
    if (uplink_ && !uplink_->settled()) return;
    UplinkState state = readUplinkState(holder_.paths);
    std::string text = state.phase == UplinkState::Phase::Up     ? "Node is up"
                       : state.phase == UplinkState::Phase::None ? "Node is up, without uplink as configured"
                                                                 : "Node is up, uplink is down: " + state.reason;
    if (text == announced_) return;
    announced_ = text;
    sd_notify(0, fmt::format("READY=1\nSTATUS={}", text).c_str());
  }

  bool stopAsked() {
    signalfd_siginfo info{};
    while (::read(signals_.get(), &info, sizeof(info)) == sizeof(info))
      if (info.ssi_signo == SIGTERM || info.ssi_signo == SIGINT) return true;
    return false;
  }

  int finish(int status) {
    if (uplink_) uplink_->stop();
    endNode(holder_);
    for (const char* file : {"/holder.json", "/uplink.json"}) ::unlink((holder_.paths.nodeState() + file).c_str());
    return status;
  }

  Holder& holder_;
  UniqueFd signals_;
  UniqueFd leaf_;
  std::optional<Uplink> uplink_;
  FileWatch files_{{"/etc/resolv.conf", "/etc/hosts"}};  // one for both: inotify instances are few
  std::string announced_;
};

}  // namespace

int runHolder() {
  sigset_t blocked;
  sigemptyset(&blocked);
  for (int number : {SIGTERM, SIGINT, SIGHUP, SIGCHLD, SIGPIPE}) sigaddset(&blocked, number);
  ::sigprocmask(SIG_SETMASK, &blocked, nullptr);
  UniqueFd signals(::signalfd(-1, &blocked, SFD_CLOEXEC | SFD_NONBLOCK));
  ::umask(022);
  Holder holder;
  if (auto status = prepare(holder); !status) {
    logError("{}", status.error());
    sd_notify(0, ("STATUS=" + status.error().text()).c_str());
    return 1;
  }
  return Loop(holder, std::move(signals)).run();
}

}  // namespace userpod

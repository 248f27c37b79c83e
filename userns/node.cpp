#include "userns/node.hpp"

#include <dirent.h>
#include <fmt/core.h>
#include <linux/sched.h>
#include <poll.h>
#include <sched.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <charconv>
#include <memory>
#include <nlohmann/json.hpp>

#include "daemon/sys/child.hpp"
#include "daemon/sys/util.hpp"

namespace userpod {
namespace {

constexpr int kJoined = CLONE_NEWUSER | CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWIPC | CLONE_NEWUTS;

Error noNode() {
  return {Code::NotReady, "the node is not running; start it with: systemctl --user start userpod-node.service"};
}

Status joinNamespaces(int pidfd, int namespaces) {
  if (::setns(pidfd, namespaces) < 0) return sysError("join the node");
  return {};
}

// Children first. A cgroup stays busy for a moment after its last process was killed.
int removeCgroupTree(int parent, const char* name) {
  UniqueFd fd(::openat(parent, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW));
  if (!fd) return errno;
  std::unique_ptr<DIR, int (*)(DIR*)> directory(::fdopendir(::dup(fd.get())), &::closedir);
  if (!directory) return errno;
  while (const dirent* entry = ::readdir(directory.get())) {
    if (entry->d_type != DT_DIR || entry->d_name[0] == '.') continue;
    if (int failed = removeCgroupTree(fd.get(), entry->d_name); failed != 0 && failed != ENOENT) return failed;
  }
  return ::unlinkat(parent, name, AT_REMOVEDIR) < 0 ? errno : 0;
}

Status checkCgroupPath(const std::string& path) {
  if (path.size() < 2 || path[0] != '/')
    return Error(Code::InvalidArgument, "cgroup path " + path + " must be absolute");
  for (const auto& part : split(path.substr(1), '/'))
    if (part.empty() || part == "." || part == "..")
      return Error(Code::InvalidArgument, "cgroup path " + path + " has an empty or dotted part");
  return {};
}

}  // namespace

std::string holderStateText(const HolderState& state) {
  return nlohmann::json{
             {"pid", state.pid}, {"startTime", state.startTime}, {"instance", state.instance}, {"cgroup", state.cgroup}}
             .dump() +
         "\n";
}

Result<HolderState> parseHolderState(std::string_view text) {
  auto json = nlohmann::json::parse(text, nullptr, false);
  Error damaged(Code::NotReady, "holder.json is damaged; restart userpod-node.service");
  if (!json.is_object()) return damaged;
  HolderState state;
  for (const char* number : {"pid", "startTime"})
    if (!json.contains(number) || !json[number].is_number_unsigned()) return damaged;
  for (const char* word : {"instance", "cgroup"})
    if (!json.contains(word) || !json[word].is_string()) return damaged;
  state.pid = json["pid"];
  state.startTime = json["startTime"];
  state.instance = json["instance"];
  state.cgroup = json["cgroup"];
  if (state.pid <= 1 || state.instance.empty() || !state.cgroup.starts_with("/")) return damaged;
  return state;
}

Result<std::uint64_t> processStartTime(pid_t pid) {
  USERPOD_TRY(text, readFile(fmt::format("/proc/{}/stat", pid), 4096));
  auto end = text.rfind(')');  // the name before it may hold spaces and parentheses
  if (end == std::string::npos) return Error(Code::Internal, fmt::format("/proc/{}/stat is not understood", pid));
  auto fields = split(trim(std::string_view(text).substr(end + 1)), ' ');
  constexpr std::size_t kStartTime = 19;  // field 22; the first here is field 3
  std::uint64_t value = 0;
  if (fields.size() <= kStartTime ||
      std::from_chars(fields[kStartTime].data(), fields[kStartTime].data() + fields[kStartTime].size(), value).ec !=
          std::errc())
    return Error(Code::Internal, fmt::format("/proc/{}/stat is not understood", pid));
  return value;
}

Result<Node> Node::find(const Paths& paths) {
  auto text = readFile(paths.nodeState() + "/holder.json", 16 << 10);
  if (!text && text.error().sysErrno() == ENOENT) return noNode();
  if (!text) return std::move(text).error();
  Node node;
  USERPOD_TRY(state, parseHolderState(*text));
  node.state_ = state;
  auto pidfd = openPidfd(state.pid);
  if (!pidfd) return noNode();
  node.pidfd_ = std::move(*pidfd);
  // With the pidfd open the number cannot be given away between this check and its use.
  auto start = processStartTime(state.pid);
  if (!start || *start != state.startTime) return noNode();
  return node;
}

Status Node::join(bool network) const {
  return joinNamespaces(pidfd_.get(), network ? kJoined | CLONE_NEWNET : kJoined);
}

Status Node::joinAll() const {
  return joinNamespaces(pidfd_.get(), kJoined | CLONE_NEWNET | CLONE_NEWCGROUP);
}

Result<NodeInside> NodeInside::open(const Paths& paths) {
  NodeInside node;
  std::string file = paths.nodeState() + "/holder.json";
  USERPOD_TRY(text, readFile(file, 16 << 10));
  USERPOD_TRY(state, parseHolderState(text));
  struct stat info{};
  if (::stat(file.c_str(), &info) < 0) return sysError("look at " + file);
  node.startedAt = info.st_mtim.tv_sec * 1'000'000'000LL + info.st_mtim.tv_nsec;
  node.instance = state.instance;
  node.hostCgroup = state.cgroup;
  struct {
    const char* name;
    UniqueFd& fd;
  } namespaces[] = {{"net", node.networkNamespace},
                    {"cgroup", node.cgroupNamespace},
                    {"ipc", node.ipcNamespace},
                    {"uts", node.utsNamespace},
                    {"pid", node.pidNamespace}};
  for (auto& [name, target] : namespaces) {
    USERPOD_TRY(fd, openFile(std::string("/proc/1/ns/") + name, O_RDONLY));
    target = std::move(fd);
  }
  // Not cgroup.controllers: one may be delegated and yet not be switched on (cpu, beside real-time processes).
  USERPOD_TRY(controllers, readFile(node.cgroupRoot + "/cgroup.subtree_control", 4096));
  node.controllers = std::string(trim(controllers));
  return node;
}

Result<UniqueFd> NodeInside::makeCgroup(const std::string& path) const {
  USERPOD_CHECK(checkCgroupPath(path));
  USERPOD_CHECK(makeDirectories(cgroupRoot + path));
  return openFile(cgroupRoot + path, O_RDONLY | O_DIRECTORY);
}

Status NodeInside::enableControllers(const std::string& path) const {
  USERPOD_CHECK(checkCgroupPath(path));
  std::string all;
  for (const auto& name : split(controllers, ' '))
    if (!name.empty()) all += (all.empty() ? "+" : " +") + name;
  if (all.empty()) return {};
  for (auto slash = path.find('/', 1); slash != std::string::npos; slash = path.find('/', slash + 1))
    USERPOD_CHECK(writeFile(cgroupRoot + path.substr(0, slash) + "/cgroup.subtree_control", all));
  return {};
}

Status NodeInside::removeCgroup(const std::string& path) const {
  USERPOD_CHECK(checkCgroupPath(path));
  std::string full = cgroupRoot + path;
  if (!pathExists(full)) return {};
  // Without cgroup.kill (before 5.14) the rmdir below says EBUSY when something still runs there.
  if (pathExists(full + "/cgroup.kill")) USERPOD_CHECK(writeFile(full + "/cgroup.kill", "1"));
  int failed = EBUSY;
  for (int attempt = 0; attempt < 200 && failed == EBUSY; ++attempt) {
    if (attempt > 0) ::poll(nullptr, 0, attempt < 5 ? 1 : 5);
    failed = removeCgroupTree(AT_FDCWD, full.c_str());
  }
  if (failed != 0 && failed != ENOENT) return sysError("remove cgroup " + path, failed);
  return {};
}

}  // namespace userpod

#include "userns/enter.hpp"

#include <fmt/core.h>
#include <poll.h>
#include <signal.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>

#include "daemon/sys/util.hpp"
#include "userns/fork.hpp"
#include "userns/scope.hpp"

namespace userpod {
namespace {

constexpr std::array kForwarded = {SIGINT, SIGQUIT, SIGTERM, SIGHUP, SIGUSR1, SIGUSR2};

// Removed when the command has ended, unless something that it left behind still runs there.
struct OwnCgroup {
  std::string directory;
  OwnCgroup() = default;
  OwnCgroup(const OwnCgroup&) = delete;
  OwnCgroup& operator=(const OwnCgroup&) = delete;
  ~OwnCgroup() {
    if (directory.empty()) return;
    ::rmdir(directory.c_str());
    ::rmdir(std::filesystem::path(directory).parent_path().c_str());
  }

  Status make(const Node& node, const std::string& name) {
    directory = "/sys/fs/cgroup" + node.state().cgroup + "/enter/" + name;
    return makeDirectories(directory);
  }
  // A process moves where its mover may write cgroup.procs of the target *and* of the common ancestor: inside the user
  // manager's tree that holds; from a login session it does not, and systemd moves the process over first.
  Status add(pid_t pid, const std::string& name) const {
    std::string file = directory + "/cgroup.procs";
    auto direct = writeFile(file, std::to_string(pid));
    if (direct || (direct.error().sysErrno() != EACCES && direct.error().sysErrno() != EPERM)) return direct;
    USERPOD_CHECK(moveToUserScope(pid, "userpod-enter-" + name + ".scope", "Command on its way into the userpod node"));
    return writeFile(file, std::to_string(pid));
  }
};

void setEnvironment(const Paths& paths) {
  std::string endpoint = "unix://" + paths.criSocket();
  const char* path = std::getenv("PATH");
  std::string search = path != nullptr ? path : "";
  for (const char* directory : {"/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"}) {
    auto parts = split(search, ':');
    if (std::find(parts.begin(), parts.end(), directory) == parts.end())
      search += (search.empty() ? "" : ":") + std::string(directory);
  }
  ::setenv("PATH", search.c_str(), 1);
  ::setenv("CONTAINER_RUNTIME_ENDPOINT", endpoint.c_str(), 1);
  ::setenv("IMAGE_SERVICE_ENDPOINT", endpoint.c_str(), 1);
  ::setenv("USER", "root", 1);
  ::setenv("LOGNAME", "root", 1);
  // They speak of the caller's own unit; a program inside that believed them would answer for it.
  for (const char* name :
       {"NOTIFY_SOCKET", "LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES", "WATCHDOG_PID", "WATCHDOG_USEC"})
    ::unsetenv(name);
}

int executeCommand(const Paths& paths, const EnterOptions& options, const std::string& directory,
                   const sigset_t& mask) {
  setEnvironment(paths);
  if (directory.empty() || ::chdir(directory.c_str()) < 0) (void)!::chdir("/");
  std::vector<char*> argv;
  for (const auto& word : options.command) argv.push_back(const_cast<char*>(word.c_str()));
  argv.push_back(nullptr);
  ::sigprocmask(SIG_SETMASK, &mask, nullptr);
  ::execvp(argv[0], argv.data());
  int failed = errno;
  fmt::print(stderr, "enter: {}: {}\n", options.command[0], std::strerror(failed));
  std::fflush(stderr);
  return failed == ENOENT ? 127 : 126;
}

// A signal of the terminal has reached the command already, as it is in the same process group.
int passSignals(int signals, Child& child) {
  for (;;) {
    std::array<pollfd, 2> entries = {pollfd{signals, POLLIN, 0}, pollfd{child.pidfd(), POLLIN, 0}};
    if (::poll(entries.data(), entries.size(), -1) < 0 && errno != EINTR) return 70;
    signalfd_siginfo info{};
    if (entries[0].revents != 0 && ::read(signals, &info, sizeof(info)) == sizeof(info) && info.ssi_code != SI_KERNEL)
      (void)child.kill(static_cast<int>(info.ssi_signo));
    if (entries[1].revents == 0) continue;
    auto status = child.wait();
    return status ? status->code : 70;
  }
}

Result<int> enter(const Paths& paths, const EnterOptions& options) {
  if (options.command.empty()) return Error(Code::InvalidArgument, "enter needs a command: userpodctl enter -- CMD");
  USERPOD_TRY(node, Node::find(paths));
  sigset_t forwarded;
  sigset_t before;
  sigemptyset(&forwarded);
  for (int number : kForwarded) sigaddset(&forwarded, number);
  ::sigprocmask(SIG_BLOCK, &forwarded, &before);
  UniqueFd signals(::signalfd(-1, &forwarded, SFD_CLOEXEC | SFD_NONBLOCK));
  if (!signals) return sysError("signalfd");
  std::error_code failed;
  std::string directory = std::filesystem::current_path(failed);
  std::string name = randomHex(6);
  OwnCgroup cgroup;
  USERPOD_CHECK(cgroup.make(node, name));
  ForkOptions how;
  how.everything = true;
  how.prepare = [&](pid_t joiner) { return cgroup.add(joiner, name); };
  USERPOD_TRY(child, forkInside(node, how, [&] { return executeCommand(paths, options, directory, before); }));
  int status = passSignals(signals.get(), child);
  ::sigprocmask(SIG_SETMASK, &before, nullptr);
  return status;
}

}  // namespace

int enterNode(const Paths& paths, const EnterOptions& options) {
  auto status = enter(paths, options);
  if (status) return *status;
  fmt::print(stderr, "enter: {}\n", status.error().text());
  return exitStatus(status.error().code());
}

}  // namespace userpod

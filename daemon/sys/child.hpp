// Making and waiting for child processes: the only place in the project that does.
#pragma once

#include <sys/types.h>

#include <chrono>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "daemon/sys/fd.hpp"

namespace userpod {

// How a process ended. code is the exit code, or 128 + signal as shells and the CRI write it.
struct ExitStatus {
  int code = 0;
  int signal = 0;
};

struct SpawnOptions {
  std::vector<std::string> argv;         // argv[0] is a path with a slash: PATH is never searched in a child
  std::vector<std::string> environment;  // whole environment, "NAME=value"; nothing is inherited
  // (descriptor here, number there). Everything not listed is closed by exec; 0, 1, 2 not listed are /dev/null.
  std::vector<std::pair<int, int>> descriptors;
  int cgroup = -1;            // O_DIRECTORY descriptor of the cgroup to be born in (CLONE_INTO_CGROUP)
  int cgroupNamespace = -1;   // pidfd or nsfs descriptor whose cgroup namespace the child joins before exec
  int networkNamespace = -1;  // the same of the network namespace
  std::string directory;      // working directory; empty: as the parent's
  int deathSignal = 0;        // PR_SET_PDEATHSIG, of the spawning *thread*
  bool newSession = false;    // setsid
};

// A child that is ours to reap. Destruction kills it (SIGKILL) and reaps it unless it was waited for or detached.
class Child {
 public:
  Child() = default;
  Child(pid_t pid, UniqueFd pidfd) : pid_(pid), pidfd_(std::move(pidfd)) {}
  Child(Child&& other) noexcept : pid_(std::exchange(other.pid_, -1)), pidfd_(std::move(other.pidfd_)) {}
  Child& operator=(Child&& other) noexcept;
  ~Child();

  pid_t pid() const { return pid_; }
  int pidfd() const { return pidfd_.get(); }  // readable once the process has ended
  explicit operator bool() const { return pid_ > 0; }

  Status kill(int signal) const;
  Result<ExitStatus> wait();  // blocks, reaps
  // nullopt when the time is over and the child still runs.
  Result<std::optional<ExitStatus>> waitFor(std::chrono::milliseconds time);
  void detach() { pid_ = -1; }  // somebody else reaps it

 private:
  pid_t pid_ = -1;
  UniqueFd pidfd_;
};

// clone3(CLONE_VM | CLONE_VFORK | CLONE_PIDFD [| CLONE_INTO_CGROUP]) and exec. Returns after the exec; a failure of any
// step in the child, with its errno, is the returned error. Any thread. Signals are unblocked and default in the child.
Result<Child> spawn(const SpawnOptions& options);

struct Output {
  ExitStatus status;
  std::string out;
  std::string err;
};
// Runs to the end with both outputs captured, up to `limit` bytes each (the rest is read and dropped), and kills it
// when the time is over (Code::Timeout, with the end of its standard error). options.descriptors must not name 1 or 2.
Result<Output> run(SpawnOptions options, std::chrono::milliseconds time, std::size_t limit = 64 << 10);

// A handle on any process. Signals never hit a recycled pid.
Result<UniqueFd> openPidfd(pid_t pid);
Status signalPidfd(int pidfd, int signal);
// Every process in the cgroup at this path and in those below it; a cgroup that is gone has none. Any thread.
void signalCgroup(const std::string& path, int signal);

// Finds a program in a PATH-like list: HelperMissing names the program and the package that has it.
Result<std::string> findProgram(const std::string& name);

}  // namespace userpod

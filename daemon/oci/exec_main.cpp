// userpod-exec: waits for a command in a container where the OCI runtime cannot. In a container that has no PID
// namespace of its own crun is the one who inherits what the command leaves behind, and waits for that too, whatever
// the command's own end; runc gives a terminal away only when it leaves the command alone.
//
//   userpod-exec LOG PIDFILE GATE BEGUN RUNTIME ARGUMENT...
//
// Runs the OCI runtime, which ends with this process, and which is told to leave the command alone (--detach) and to
// write its number to PIDFILE, which is removed; ends as the command ends, or as the runtime when that fails. What
// fails here, or without a word of the runtime's, is said in LOG, where the runtime says it too: it must not be taken
// for the command's own end. Whom the command has left behind then passes to the node's first process. Static and
// without the C++ library, like userpod-pause.
//
// BEGUN is "-", or the number of a descriptor that gets a byte when the command runs.
// GATE is "-", or the number of a descriptor: the command's program waits, loaded but not begun, until the other end of
// it has been closed. crun sets the size of a terminal while the command runs already: it would find none, one time in
// ten. The only way to stop a process at its exec from outside is to trace it; without the right to, nothing waits.
// facts: prctl(2) PR_SET_CHILD_SUBREAPER, PR_SET_PDEATHSIG; ptrace(2) PTRACE_SEIZE, PTRACE_EVENT_EXEC.
#include <fcntl.h>
#include <poll.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>

namespace {

int codeOf(int status) {
  return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

int fail(const char* log, const char* what) {
  int reason = errno;
  int fd = ::open(log, O_WRONLY | O_APPEND | O_CLOEXEC);
  if (fd >= 0) ::dprintf(fd, "userpod-exec: %s: %s\n", what, ::strerror(reason));
  return 70;
}

// Killed, with the command that it was about to start, or out of words for another reason.
int runtimeFailed(const char* log, int status) {
  struct stat info{};
  int fd = ::open(log, O_WRONLY | O_APPEND | O_CLOEXEC);
  if (fd >= 0 && ::fstat(fd, &info) == 0 && info.st_size == 0)
    ::dprintf(fd, "the command was not started: exit status %d\n", codeOf(status));
  return codeOf(status);
}

pid_t numberIn(const char* path) {
  char text[32] = {};
  errno = ENODATA;
  int fd = ::open(path, O_RDONLY | O_CLOEXEC);
  const bool there = fd >= 0 && ::read(fd, text, sizeof text - 1) > 0;
  ::close(fd);
  if (!there) return -1;
  ::unlink(path);
  return static_cast<pid_t>(std::strtol(text, nullptr, 10));
}

// Without the one who waits for it a runtime must not start its command any more.
pid_t run(const char* log, char** words, bool* traced) {
  int begin[2];
  if (::pipe(begin) < 0) return -1;
  const pid_t self = ::getpid();
  const pid_t child = ::fork();
  if (child == 0) {
    ::prctl(PR_SET_PDEATHSIG, SIGKILL);
    ::close(begin[1]);
    char none = 0;
    if (::read(begin[0], &none, 1) != 0 || ::getppid() != self) ::_exit(70);
    ::close(begin[0]);
    ::execv(words[0], words);
    ::_exit(fail(log, words[0]));
  }
  constexpr long kOptions = PTRACE_O_TRACEFORK | PTRACE_O_TRACEVFORK | PTRACE_O_TRACECLONE | PTRACE_O_TRACEEXEC;
  *traced = *traced && child > 0 && ::ptrace(PTRACE_SEIZE, child, nullptr, kOptions) == 0;
  ::close(begin[0]);
  ::close(begin[1]);
  return child;
}

// Until the runtime has ended, and the command has passed its gate.
class Start {
 public:
  Start(pid_t runtime, const char* pidFile, int gate, bool traced)
      : runtime_(runtime), pidFile_(pidFile), gate_(gate), traced_(traced) {}

  // False: the runtime has failed.
  bool wait() {
    while (!runtimeEnded_ || (traced_ && !passed_ && !commandEnded_)) {
      if (held_ > 0 && gateOpen()) {
        pass();
        continue;
      }
      int status = 0;
      const pid_t pid = ::waitpid(traced_ ? -1 : runtime_, &status, __WALL | (held_ > 0 ? WNOHANG : 0));
      if (pid < 0 && errno != EINTR) return runtimeEnded_;  // the command is gone without a trace
      if (pid > 0) WIFSTOPPED(status) ? stopped(pid, status) : ended(pid, status);
      if (!runtimeEnded_ || runtimeStatus_ == 0) continue;
      if (held_ > 0) ::kill(held_, SIGKILL);
      return false;
    }
    return true;
  }
  int runtimeStatus() const { return runtimeStatus_; }
  pid_t command() const { return command_; }
  bool commandEnded() const { return commandEnded_; }
  int commandStatus() const { return commandStatus_; }

 private:
  // At most a millisecond, as the runtime may want to be let on.
  bool gateOpen() {
    pollfd entry{gate_, POLLIN, 0};
    return ::poll(&entry, 1, 1) > 0;
  }
  void pass() {
    ::ptrace(PTRACE_DETACH, held_, nullptr, nullptr);
    held_ = -1;
    passed_ = true;
  }
  void stopped(pid_t pid, int status) {
    const int event = status >> 16;
    const long signal = WSTOPSIG(status);
    if (event == PTRACE_EVENT_EXEC && pid != runtime_ && held_ < 0 && !passed_) {
      held_ = pid;
    } else if (event == PTRACE_EVENT_STOP && signal != SIGTRAP) {
      ::ptrace(PTRACE_LISTEN, pid, nullptr, nullptr);
    } else {
      ::ptrace(PTRACE_CONT, pid, nullptr, event == 0 ? signal : 0);
    }
  }
  void ended(pid_t pid, int status) {
    if (pid == held_) held_ = -1;
    if (pid == runtime_) {
      runtimeEnded_ = true;
      runtimeStatus_ = status;
      if (status == 0) command_ = numberIn(pidFile_);
    } else {
      last_ = pid;  // killed before its program began, it can be the command
      lastStatus_ = status;
    }
    if (command_ > 0 && command_ == last_) {
      commandEnded_ = true;
      commandStatus_ = lastStatus_;
    }
  }

  const pid_t runtime_;
  const char* const pidFile_;
  const int gate_;
  const bool traced_;
  bool runtimeEnded_ = false;
  int runtimeStatus_ = -1;
  pid_t command_ = -1;
  bool commandEnded_ = false;
  int commandStatus_ = 0;
  pid_t held_ = -1;
  bool passed_ = false;
  pid_t last_ = -1;
  int lastStatus_ = 0;
};

// Of a descriptor that is not the runtime's; -1 for "-".
int descriptor(const char* word) {
  if (word[0] == '-') return -1;
  const int number = static_cast<int>(std::strtol(word, nullptr, 10));
  ::fcntl(number, F_SETFD, FD_CLOEXEC);
  return number;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 6) {
    std::fputs(
        "usage: userpod-exec LOG PIDFILE GATE BEGUN RUNTIME ARGUMENT...\n"
        "Started by userpodd for commands in containers.\n",
        stderr);
    return 64;
  }
  if (::prctl(PR_SET_CHILD_SUBREAPER, 1) < 0) return fail(argv[1], "become a subreaper");
  const int gate = descriptor(argv[3]);
  const int begun = descriptor(argv[4]);
  bool traced = gate >= 0;
  const pid_t runtime = run(argv[1], argv + 5, &traced);
  if (runtime < 0) return fail(argv[1], "make a process");
  // The pipes are the command's: their end is its end.
  for (int number = STDIN_FILENO; number <= STDERR_FILENO; ++number) ::close(number);
  Start start(runtime, argv[2], gate, traced);
  if (!start.wait()) return runtimeFailed(argv[1], start.runtimeStatus());
  if (start.command() <= 0) return fail(argv[1], "the number of the command");
  if (begun >= 0 && ::write(begun, "", 1) == 1) ::close(begun);
  if (start.commandEnded()) return codeOf(start.commandStatus());
  for (;;) {
    int status = 0;
    pid_t ended = ::waitpid(-1, &status, 0);
    if (ended == start.command()) return codeOf(status);
    if (ended < 0 && errno != EINTR) return fail(argv[1], "wait for the command");
  }
}

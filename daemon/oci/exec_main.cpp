// userpod-exec: waits for a command in a container where the OCI runtime cannot. In a container that has no PID
// namespace of its own crun is the one who inherits what the command leaves behind, and waits for that too, whatever
// the command's own end; runc gives a terminal away only when it leaves the command alone.
//
//   userpod-exec LOG PIDFILE RUNTIME ARGUMENT...
//
// Runs the OCI runtime, which ends with this process, and which is told to leave the command alone (--detach) and to
// write its number to PIDFILE, which is removed; ends as the command ends, or as the runtime when that fails. What
// fails here, or without a word of the runtime's, is said in LOG, where the runtime says it too: it must not be taken
// for the command's own end. Whom the command has left behind then passes to the node's first process. Static and
// without the C++ library, like userpod-pause.
// facts: prctl(2) PR_SET_CHILD_SUBREAPER, PR_SET_PDEATHSIG.
#include <fcntl.h>
#include <sys/prctl.h>
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
  if (fd < 0 || ::read(fd, text, sizeof text - 1) <= 0) return -1;
  ::unlink(path);
  return static_cast<pid_t>(std::strtol(text, nullptr, 10));
}

// Without the one who waits for it a runtime must not start its command any more.
pid_t run(char** words) {
  const pid_t self = ::getpid();
  const pid_t child = ::fork();
  if (child != 0) return child;
  ::prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (::getppid() != self) ::_exit(70);
  ::execv(words[0], words);
  ::_exit(127);
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 4) {
    std::fputs("usage: userpod-exec LOG PIDFILE RUNTIME ARGUMENT...\nStarted by userpodd for commands in containers.\n",
               stderr);
    return 64;
  }
  if (::prctl(PR_SET_CHILD_SUBREAPER, 1) < 0) return fail(argv[1], "become a subreaper");
  const pid_t runtime = run(argv + 3);
  if (runtime < 0) return fail(argv[1], "make a process");
  // The pipes are the command's: their end is its end.
  for (int number = STDIN_FILENO; number <= STDERR_FILENO; ++number) ::close(number);
  int status = 0;
  while (::waitpid(runtime, &status, 0) < 0) {
  }
  if (status != 0) return runtimeFailed(argv[1], status);
  const pid_t command = numberIn(argv[2]);
  if (command <= 0) return fail(argv[1], "the number of the command");
  for (;;) {
    pid_t ended = ::waitpid(-1, &status, 0);
    if (ended == command) return codeOf(status);
    if (ended < 0 && errno != EINTR) return fail(argv[1], "wait for the command");
  }
}

// userpod-exec: waits for a command in a container that has no PID namespace of its own, as crun cannot: there it is
// the one who inherits what the command leaves behind, and waits for that too, whatever the command's own end.
//
//   userpod-exec PIDFILE RUNTIME ARGUMENT...
//
// Runs the OCI runtime, which is told to leave the command alone (--detach) and to write its number to PIDFILE; ends as
// the command ends, or as the runtime when that fails. Whom the command has left behind then passes to the node's first
// process. Static and without the C++ library, like userpod-pause.
// facts: prctl(2) PR_SET_CHILD_SUBREAPER.
#include <fcntl.h>
#include <spawn.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>

namespace {

int codeOf(int status) {
  return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

pid_t numberIn(const char* path) {
  char text[32] = {};
  int fd = ::open(path, O_RDONLY | O_CLOEXEC);
  if (fd < 0 || ::read(fd, text, sizeof text - 1) <= 0) return -1;
  return static_cast<pid_t>(std::strtol(text, nullptr, 10));
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 3) {
    std::fputs("usage: userpod-exec PIDFILE RUNTIME ARGUMENT...\nStarted by userpodd for ExecSync.\n", stderr);
    return 64;
  }
  pid_t runtime = -1;
  if (::prctl(PR_SET_CHILD_SUBREAPER, 1) < 0 ||
      ::posix_spawn(&runtime, argv[2], nullptr, nullptr, argv + 2, environ) != 0) {
    std::perror("userpod-exec");
    return 70;
  }
  // The pipes are the command's: their end is its end.
  ::close(STDOUT_FILENO);
  ::close(STDERR_FILENO);
  int status = 0;
  while (::waitpid(runtime, &status, 0) < 0) {
  }
  if (status != 0) return codeOf(status);
  const pid_t command = numberIn(argv[1]);
  while (command > 0) {
    pid_t ended = ::waitpid(-1, &status, 0);
    if (ended == command) return codeOf(status);
    if (ended < 0) break;
  }
  return 70;
}

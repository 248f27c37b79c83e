#include "userns/fork.hpp"

#include <linux/sched.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>

namespace userpod {
namespace {

// What the joiner tells the caller: the pid as the host sees it, or an error.
struct Report {
  pid_t pid = -1;
  Code code = Code::Internal;
  int sysErrno = 0;
  std::array<char, 512> text{};
};

void sendError(int fd, const Error& error) {
  Report report;
  report.code = error.code();
  report.sysErrno = error.sysErrno();
  std::size_t length = std::min(error.text().size(), report.text.size() - 1);
  std::memcpy(report.text.data(), error.text().data(), length);
  (void)!::write(fd, &report, sizeof(report));
}

// A sibling of the calling process, child of its parent. Its thread id must reach glibc's own record, as fork() would
// see to: recursive locks compare it. PR_GET_TID_ADDRESS says where that is.
long cloneSibling() {
  clone_args arguments{};
  arguments.flags = CLONE_PARENT;
  int* tid = nullptr;
  if (::prctl(PR_GET_TID_ADDRESS, &tid) == 0 && tid != nullptr) {
    arguments.flags |= CLONE_CHILD_SETTID | CLONE_CHILD_CLEARTID;
    arguments.child_tid = reinterpret_cast<std::uint64_t>(tid);
  }
  return ::syscall(SYS_clone3, &arguments, sizeof(arguments));
}

struct Channels {
  Pipe release;
  Pipe report;
  Pipe alive;  // the caller's end closes with the caller: a process made after its death must not stay
};

int runBody(Channels& channels, const std::function<int()>& body) {
  ::prctl(PR_SET_PDEATHSIG, SIGKILL);
  char byte = 0;
  channels.release = {};
  channels.report = {};
  // The caller writes once it has heard of this process, and so was alive after the death signal was set or is dead.
  if (::read(channels.alive.read.get(), &byte, 1) != 1) return 1;
  channels.alive = {};
  return body();
}

[[noreturn]] void runJoiner(const Node& node, const ForkOptions& options, Channels& channels,
                            const std::function<int()>& body) {
  ::prctl(PR_SET_PDEATHSIG, SIGKILL);
  channels.release.write.reset();
  channels.alive.write.reset();
  char byte = 0;
  if (::read(channels.release.read.get(), &byte, 1) != 1) ::_exit(1);
  Status joined = options.everything ? node.joinAll() : node.join(false);
  if (!joined) {
    sendError(channels.report.write.get(), joined.error());
    ::_exit(1);
  }
  long pid = cloneSibling();
  if (pid == 0) ::_exit(runBody(channels, body));
  if (pid < 0) {
    sendError(channels.report.write.get(), sysError("start a process in the node"));
    ::_exit(1);
  }
  Report report;
  report.pid = static_cast<pid_t>(pid);
  ::_exit(::write(channels.report.write.get(), &report, sizeof(report)) == sizeof(report) ? 0 : 1);
}

void reap(pid_t pid) {
  while (::waitpid(pid, nullptr, 0) < 0 && errno == EINTR) {
  }
}

Result<Child> receiveChild(Channels& channels) {
  Report report;
  ssize_t count = 0;
  do count = ::read(channels.report.read.get(), &report, sizeof(report));
  while (count < 0 && errno == EINTR);
  if (count != sizeof(report))
    return Error(Code::NotReady, "the process that joins the node ended; is the node stopping?");
  if (report.pid < 0) return Error(report.code, report.text.data(), report.sysErrno);
  USERPOD_TRY(pidfd, openPidfd(report.pid));
  Child child(report.pid, std::move(pidfd));
  if (::write(channels.alive.write.get(), "1", 1) != 1) return sysError("release the process in the node");
  return child;
}

}  // namespace

Result<Child> forkInside(const Node& node, const ForkOptions& options, const std::function<int()>& body) {
  Channels channels;
  for (Pipe* pipe : {&channels.release, &channels.report, &channels.alive}) {
    USERPOD_TRY(made, makePipe());
    *pipe = std::move(made);
  }
  pid_t joiner = ::fork();
  if (joiner < 0) return sysError("fork");
  if (joiner == 0) runJoiner(node, options, channels, body);
  channels.release.read.reset();
  channels.report.write.reset();
  channels.alive.read.reset();
  Status prepared = options.prepare ? options.prepare(joiner) : Status();
  if (prepared && ::write(channels.release.write.get(), "1", 1) != 1) prepared = sysError("release the joiner");
  channels.release.write.reset();
  if (!prepared) {
    reap(joiner);
    return std::move(prepared).error();
  }
  auto child = receiveChild(channels);
  reap(joiner);
  return child;
}

}  // namespace userpod

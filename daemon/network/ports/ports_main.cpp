// userpod-ports SOCKET: holds host ports and carries their connections to pods. Started by the daemon, in the node's
// user, mount and PID namespaces and the host's network namespace, with descriptors 3 (a control connection) and 4 (the
// node's network namespace); it outlives the daemon.
#include <fcntl.h>
#include <signal.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include "daemon/network/ports/control.hpp"
#include "daemon/network/ports/privileges.hpp"
#include "daemon/network/ports/table.hpp"
#include "daemon/sys/log.hpp"

namespace userpod::ports {
namespace {

// Before the first thread: those to come have the mask from here. A peer that closes early is no reason to end.
Result<UniqueFd> endSignals() {
  ::signal(SIGPIPE, SIG_IGN);
  ::signal(SIGHUP, SIG_IGN);
  sigset_t ends;
  sigemptyset(&ends);
  sigaddset(&ends, SIGTERM);
  sigaddset(&ends, SIGINT);
  ::pthread_sigmask(SIG_BLOCK, &ends, nullptr);
  UniqueFd fd(::signalfd(-1, &ends, SFD_CLOEXEC | SFD_NONBLOCK));
  if (!fd) return sysError("wait for signals");
  return fd;
}

Status serve(const std::string& socketPath) {
  UniqueFd first(kControlDescriptor), nodeNamespace(kNamespaceDescriptor);
  for (int fd : {first.get(), nodeNamespace.get()})
    if (::fcntl(fd, F_SETFD, FD_CLOEXEC) < 0)
      return Error(Code::InvalidArgument, "this program is started by userpod's daemon only");
  USERPOD_TRY(end, endSignals());
  if (::chdir("/") < 0) return sysError("go to /");
  USERPOD_TRY(table, Table::open(nodeNamespace.get()));
  nodeNamespace.reset();
  USERPOD_CHECK(dropCapabilities());
  USERPOD_TRY(control, Control::open(socketPath, std::move(first), *table));
  return control.run(end.get());
}

}  // namespace
}  // namespace userpod::ports

int main(int argc, char** argv) {
  if (argc != 2) {
    userpod::logError("userpod-ports SOCKET: started by userpod's daemon only");
    return 64;
  }
  auto status = userpod::ports::serve(argv[1]);
  if (status) return 0;
  userpod::logError("userpod-ports: {}", status.error());
  return userpod::exitStatus(status.error().code());
}

// Talking to a container's conmon: its control pipe and its attach socket.
#include <fmt/core.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/un.h>

#include <cerrno>
#include <mutex>
#include <thread>

#include "daemon/oci/runtime_impl.hpp"

namespace userpod::oci {
namespace {

constexpr timeval kConnectTime{.tv_sec = 5, .tv_usec = 0};
constexpr int kReadWaits = 100;  // milliseconds

Error monitorEnded(const Error& why) {
  return Error(Code::MonitorFailed, "the container's monitor has ended: " + why.text(), why.sysErrno());
}

}  // namespace

// Of several lines that one read brings, conmon takes the first, several times: each has to wait for the one before.
Status tellMonitor(const std::string& bundle, const std::string& line) {
  static std::mutex oneAtATime;
  std::lock_guard lock(oneAtATime);
  auto control = openFile(bundle + "/ctl", O_WRONLY | O_NONBLOCK);
  if (!control) return monitorEnded(control.error());
  int unread = 0;
  for (int wait = 0; wait < kReadWaits && ::ioctl(control->get(), FIONREAD, &unread) == 0 && unread > 0; ++wait)
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  return writeAll(control->get(), line);
}

Status resizeTerminal(const std::string& bundle, TerminalSize size) {
  return tellMonitor(bundle, fmt::format("1 {} {}\n", size.rows, size.columns));
}

Result<UniqueFd> connectMonitor(const std::string& bundle) {
  // Through the directory's descriptor: the path itself may be longer than an address can be.
  auto directory = openFile(bundle, O_PATH | O_DIRECTORY);
  if (!directory) return monitorEnded(directory.error());
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  *fmt::format_to_n(address.sun_path, sizeof address.sun_path - 1, "/proc/self/fd/{}/attach", directory->get()).out = 0;
  UniqueFd socket(::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0));
  if (!socket) return sysError("make a socket");
  // Of a monitor that does not take its connections any more the queue may be full.
  if (::setsockopt(socket.get(), SOL_SOCKET, SO_SNDTIMEO, &kConnectTime, sizeof kConnectTime) < 0)
    return sysError("set up a socket");
  if (::connect(socket.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) < 0) {
    if (errno == EAGAIN) return Error(Code::Timeout, "conmon did not take the connection within five seconds");
    return monitorEnded(sysError("connect to " + bundle + "/attach"));
  }
  if (::fcntl(socket.get(), F_SETFL, O_NONBLOCK) < 0) return sysError("set up a socket");
  return socket;
}

}  // namespace userpod::oci

#include "daemon/cri/acceptor.hpp"

#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <cerrno>
#include <future>

#include "daemon/sys/log.hpp"

namespace userpod::cri {
namespace {

constexpr int kBacklog = 128;
// How long to leave the queue alone when there is no descriptor or memory for one more connection.
constexpr std::chrono::milliseconds kShortagePause{100};

Result<sockaddr_un> socketAddress(const std::string& path) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (path.empty() || path.size() >= sizeof address.sun_path)
    return Error(Code::InvalidArgument,
                 fmt::format("socket path {} must have 1 to {} bytes; choose a shorter directory", path,
                             sizeof address.sun_path - 1));
  path.copy(address.sun_path, path.size());
  return address;
}

Result<UniqueFd> makeSocket() {
  UniqueFd fd(::socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
  if (!fd) return sysError("socket");
  return fd;
}

// Takes away a socket that a daemon left behind when it died.
Status removeStale(const std::string& path, const sockaddr_un& address) {
  struct stat info{};
  if (::lstat(path.c_str(), &info) < 0) {
    if (errno == ENOENT) return {};
    return sysError("look at " + path);
  }
  if (!S_ISSOCK(info.st_mode))
    return Error(Code::InvalidState, path + " is in the way and is not a socket; move it away");
  USERPOD_TRY(probe, makeSocket());
  if (::connect(probe.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) == 0 || errno == EAGAIN)
    return Error(Code::Busy,
                 path + " is served by another daemon; stop it with: systemctl --user stop userpod.socket userpod");
  if (errno != ECONNREFUSED) return sysError("connect to " + path);
  if (::unlink(path.c_str()) < 0 && errno != ENOENT) return sysError("remove " + path);
  return {};
}

}  // namespace

Result<UniqueFd> openListener(const std::string& path) {
  USERPOD_TRY(address, socketAddress(path));
  USERPOD_CHECK(removeStale(path, address));
  USERPOD_TRY(fd, makeSocket());
  // bind() makes the file with the mode of the socket's own inode: there is no moment with a wider one, and the
  // process's umask stays as it is.
  if (::fchmod(fd.get(), 0600) < 0) return sysError("set the mode of the CRI socket");
  if (::bind(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) < 0)
    return sysError("bind " + path);
  if (::listen(fd.get(), kBacklog) < 0) return sysError("listen at " + path);
  return std::move(fd);
}

Result<std::unique_ptr<Acceptor>> Acceptor::start(UniqueFd listener, std::function<void(UniqueFd)> handOver) {
  // systemd hands over a blocking listener, and accept4 must not wait for a client that has gone again.
  int flags = ::fcntl(listener.get(), F_GETFL);
  if (flags < 0 || ::fcntl(listener.get(), F_SETFL, flags | O_NONBLOCK) < 0 ||
      ::fcntl(listener.get(), F_SETFD, FD_CLOEXEC) < 0)
    return sysError("CRI listener");
  USERPOD_TRY(loop, EventLoop::start("cri-accept"));
  std::unique_ptr<Acceptor> acceptor(new Acceptor(std::move(listener), std::move(handOver)));
  acceptor->loop_ = std::move(loop);
  std::promise<Status> watching;
  acceptor->loop_->post([&] { watching.set_value(acceptor->watch()); });
  USERPOD_CHECK(watching.get_future().get());
  return Result<std::unique_ptr<Acceptor>>(std::move(acceptor));
}

void Acceptor::stop() {
  if (loop_) loop_->shutdown();
  loop_.reset();
  listener_.reset();
}

Status Acceptor::watch() {
  return loop_->watch(listener_.get(), EPOLLIN, [this](std::uint32_t) { acceptAll(); });
}

void Acceptor::acceptAll() {
  while (true) {
    UniqueFd connection(::accept4(listener_.get(), nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC));
    if (!connection) {
      if (errno == EINTR || errno == ECONNABORTED) continue;
      if (errno != EAGAIN) pause(errno);
      return;
    }
    starved_ = false;
    ucred peer{};
    socklen_t length = sizeof peer;
    if (::getsockopt(connection.get(), SOL_SOCKET, SO_PEERCRED, &peer, &length) < 0) {
      logWarning("{}", sysError("CRI connection refused: its credentials"));
    } else if (peer.uid != ::getuid()) {
      logWarning("CRI connection refused: process {} belongs to user {}, not to user {}", peer.pid, peer.uid,
                 ::getuid());
    } else {
      handOver_(std::move(connection));
    }
  }
}

// Clients wait in the backlog meanwhile. Without the pause a level-triggered listener would spin.
void Acceptor::pause(int reason) {
  if (!std::exchange(starved_, true))
    logError("CRI connections wait: {}; is LimitNOFILE= of userpod.service too low?", sysError("accept", reason));
  loop_->unwatch(listener_.get());
  loop_->runAfter(kShortagePause, [this] {
    if (auto watching = watch(); !watching) logError("CRI listener: {}", watching.error());
  });
}

}  // namespace userpod::cri

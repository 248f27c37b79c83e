#include "daemon/network/ports/control.hpp"

#include <fmt/core.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/un.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "daemon/sys/log.hpp"

namespace userpod::ports {
namespace {

constexpr std::size_t kConnections = 8;  // one daemon has one; those of its end may linger for a moment
constexpr std::size_t kPortsAtOnce = 100;
constexpr timeval kSendTime{2, 0};

Result<UniqueFd> listenAt(const std::string& path) {
  sockaddr_un name{};
  name.sun_family = AF_UNIX;
  if (path.size() >= sizeof name.sun_path) return Error(Code::InvalidArgument, path + " is too long for a socket");
  std::memcpy(name.sun_path, path.c_str(), path.size());
  UniqueFd fd(::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!fd) return sysError("make the control socket");
  if (::unlink(path.c_str()) < 0 && errno != ENOENT) return sysError("remove " + path);
  mode_t before = ::umask(0177);
  int bound = ::bind(fd.get(), reinterpret_cast<sockaddr*>(&name), sizeof name);
  ::umask(before);
  if (bound < 0 || ::listen(fd.get(), static_cast<int>(kConnections)) < 0) return sysError("listen at " + path);
  return fd;
}

// The user, who is root in the node. A container's root has another number.
bool allowed(int connection) {
  ucred peer{};
  socklen_t size = sizeof peer;
  return ::getsockopt(connection, SOL_SOCKET, SO_PEERCRED, &peer, &size) == 0 && peer.uid == ::geteuid();
}

}  // namespace

Result<Control> Control::open(const std::string& socketPath, UniqueFd first, Table& table) {
  USERPOD_TRY(listener, listenAt(socketPath));
  Control control(std::move(listener), table);
  if (first) control.greet(std::move(first));
  return control;
}

bool Control::greet(UniqueFd connection) {
  (void)::setsockopt(connection.get(), SOL_SOCKET, SO_SNDTIMEO, &kSendTime, sizeof kSendTime);
  if (!sendMessage(connection.get(), greeting())) return false;
  connections_.push_back(std::move(connection));
  return true;
}

void Control::accept() {
  UniqueFd connection(::accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC));
  if (!connection) return;
  if (!allowed(connection.get()) || connections_.size() >= kConnections)
    return logWarning("a control connection is refused: of another user, or one too many");
  greet(std::move(connection));
}

Status Control::run(int end) {
  for (;;) {
    std::vector<pollfd> entries = {{end, POLLIN, 0}, {listener_.get(), POLLIN, 0}, {table_->changes(), POLLIN, 0}};
    for (const auto& connection : connections_) entries.push_back({connection.get(), POLLIN, 0});
    if (::poll(entries.data(), entries.size(), -1) < 0) {
      if (errno == EINTR) continue;
      return sysError("wait for requests");
    }
    if (entries[0].revents != 0) return {};
    if (entries[2].revents != 0) table_->refresh();
    for (std::size_t index = 3; index < entries.size(); ++index)
      if (entries[index].revents != 0 && !serve(entries[index].fd))
        std::erase_if(connections_, [&](const UniqueFd& one) { return one.get() == entries[index].fd; });
    if (entries[1].revents != 0) accept();
  }
}

bool Control::serve(int connection) {
  auto text = receiveMessage(connection);
  if (!text || text->empty()) return false;
  return static_cast<bool>(answerRequest(connection, *text));
}

Status Control::answerRequest(int connection, std::string_view text) {
  auto request = parseRequest(text);
  Answer answer;
  if (!request) {
    answer.error = std::move(request).error();
  } else if (request->kind == Request::Kind::List) {
    return answerList(connection);
  } else if (request->kind == Request::Kind::Withdraw) {
    table_->withdraw(request->pod.podId);
  } else if (auto status = table_->publish(request->pod, request->offset, answer.taken); !status) {
    answer.error = std::move(status).error();
  }
  return sendMessage(connection, answerText(answer));
}

// In pieces: one message has its limit.
Status Control::answerList(int connection) {
  auto ports = table_->list();
  std::size_t begin = 0;
  do {
    std::size_t end = std::min(begin + kPortsAtOnce, ports.size());
    Answer answer;
    answer.ports.assign(ports.begin() + static_cast<std::ptrdiff_t>(begin),
                        ports.begin() + static_cast<std::ptrdiff_t>(end));
    answer.more = end < ports.size();
    USERPOD_CHECK(sendMessage(connection, answerText(answer)));
    begin = end;
  } while (begin < ports.size());
  return {};
}

}  // namespace userpod::ports

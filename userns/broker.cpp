#include "userns/broker.hpp"

#include <fmt/core.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <cstring>

#include "daemon/sys/util.hpp"

namespace userpod {
namespace {

enum class Question : std::uint32_t { HostPid = 1, Sandboxed = 2 };

struct Request {
  std::uint32_t number;  // comes back in the answer: one that was given up on may still arrive
  Question question;
  std::int32_t pid;
};
struct Answer {
  std::uint32_t number;
  std::int32_t sysErrno;
  std::int32_t value;
};

constexpr std::chrono::milliseconds kPatience{1000};

// The kernel translates the pid of a credentials message into the receiver's PID namespace. Sending another process's
// pid needs CAP_SYS_ADMIN over one's own PID namespace, which the inner daemon has.
Status send(int socket, const Request& request, bool withCredentials) {
  iovec data{const_cast<Request*>(&request), sizeof(request)};
  alignas(cmsghdr) std::array<char, CMSG_SPACE(sizeof(ucred))> control{};
  msghdr message{};
  message.msg_iov = &data;
  message.msg_iovlen = 1;
  if (withCredentials) {
    message.msg_control = control.data();
    message.msg_controllen = control.size();
    cmsghdr* header = CMSG_FIRSTHDR(&message);
    header->cmsg_level = SOL_SOCKET;
    header->cmsg_type = SCM_CREDENTIALS;
    header->cmsg_len = CMSG_LEN(sizeof(ucred));
    ucred credentials{request.pid, ::getuid(), ::getgid()};
    std::memcpy(CMSG_DATA(header), &credentials, sizeof(credentials));
  }
  if (::sendmsg(socket, &message, MSG_NOSIGNAL | MSG_DONTWAIT) == sizeof(request)) return {};
  if (errno == ESRCH) return Error(Code::InvalidState, fmt::format("process {} has ended", request.pid), ESRCH);
  return sysError("ask the outer daemon");
}

Result<std::int32_t> receive(int socket, std::uint32_t number) {
  auto end = std::chrono::steady_clock::now() + kPatience;
  for (;;) {
    auto left = std::chrono::ceil<std::chrono::milliseconds>(end - std::chrono::steady_clock::now()).count();
    if (left <= 0) return Error(Code::Timeout, "the outer daemon does not answer");
    pollfd entry{socket, POLLIN, 0};
    int ready = ::poll(&entry, 1, static_cast<int>(left));
    if (ready < 0 && errno != EINTR) return sysError("poll");
    if (ready <= 0) continue;
    Answer answer{};
    ssize_t count = ::recv(socket, &answer, sizeof(answer), MSG_DONTWAIT);
    if (count < 0 && (errno == EINTR || errno == EAGAIN)) continue;
    if (count < 0) return sysError("hear the outer daemon");
    if (count == 0) return Error(Code::NotReady, "the outer daemon is gone");
    if (count != sizeof(answer) || answer.number != number) continue;
    if (answer.sysErrno != 0) return sysError("the outer daemon", answer.sysErrno);
    return answer.value;
  }
}

std::atomic<std::uint32_t> nextNumber{1};

// A sandbox cannot hide these from outside: bubblewrap binds .flatpak-info read-only into the application's root, and
// the AppArmor label is the kernel's. What cannot be looked at counts as sandboxed.
int lookForSandbox(pid_t pid, std::int32_t& value) {
  auto process = openFile(fmt::format("/proc/{}", pid), O_PATH | O_DIRECTORY);
  if (!process) return process.error().sysErrno() == ENOENT ? ESRCH : process.error().sysErrno();
  value = 1;
  struct stat info{};
  auto root = openAt(process->get(), "root", O_PATH | O_DIRECTORY);
  if (!root) return root.error().sysErrno() == ENOENT ? ESRCH : 0;
  if (::fstatat(root->get(), ".flatpak-info", &info, AT_SYMLINK_NOFOLLOW) == 0 || errno != ENOENT) return 0;
  auto labelFile = openAt(process->get(), "attr/current", O_RDONLY);
  auto label =
      labelFile ? readAll(labelFile->get(), 4096) : Result<std::string>(std::string());  // no security module: EINVAL
  if (label && label->starts_with("snap.")) return 0;
  value = 0;
  return 0;
}

}  // namespace

Result<pid_t> Broker::hostPid(pid_t nodePid) {
  std::lock_guard lock(mutex_);
  Request request{nextNumber++, Question::HostPid, nodePid};
  USERPOD_CHECK(send(socket_.get(), request, true));
  USERPOD_TRY(value, receive(socket_.get(), request.number));
  return value;
}

Result<bool> Broker::sandboxed(pid_t hostPid) {
  std::lock_guard lock(mutex_);
  Request request{nextNumber++, Question::Sandboxed, hostPid};
  USERPOD_CHECK(send(socket_.get(), request, false));
  USERPOD_TRY(value, receive(socket_.get(), request.number));
  return value != 0;
}

Status answerBrokerRequest(int socket) {
  Request request{};
  iovec data{&request, sizeof(request)};
  alignas(cmsghdr) std::array<char, 256> control{};
  msghdr message{};
  message.msg_iov = &data;
  message.msg_iovlen = 1;
  message.msg_control = control.data();
  message.msg_controllen = control.size();
  ssize_t count = ::recvmsg(socket, &message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
  if (count < 0 && (errno == EINTR || errno == EAGAIN)) return {};
  if (count < 0) return sysError("hear the inner daemon");
  if (count == 0) return Error(Code::NotReady, "the inner daemon closed its socket");
  if (count != sizeof(request)) return {};
  ucred sender{};
  for (cmsghdr* header = CMSG_FIRSTHDR(&message); header != nullptr; header = CMSG_NXTHDR(&message, header))
    if (header->cmsg_level == SOL_SOCKET && header->cmsg_type == SCM_CREDENTIALS)
      std::memcpy(&sender, CMSG_DATA(header), sizeof(sender));
  Answer answer{request.number, 0, 0};
  if (request.question == Question::HostPid) {
    answer.value = sender.pid;
    if (sender.pid <= 0) answer.sysErrno = ESRCH;
  } else if (request.question == Question::Sandboxed) {
    answer.sysErrno = lookForSandbox(request.pid, answer.value);
  } else {
    answer.sysErrno = EINVAL;
  }
  // Full only when the inner daemon has stopped reading: it has its own time limit.
  if (::send(socket, &answer, sizeof(answer), MSG_NOSIGNAL | MSG_DONTWAIT) < 0 && errno != EAGAIN)
    return sysError("answer the inner daemon");
  return {};
}

}  // namespace userpod

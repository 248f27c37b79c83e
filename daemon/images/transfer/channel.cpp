#include "daemon/images/transfer/channel.hpp"

#include <sys/socket.h>

#include <array>
#include <cerrno>
#include <cstring>
#include <nlohmann/json.hpp>

namespace userpod::images {

namespace {

constexpr std::uint32_t kLargestPart = 16U << 20;

struct Lengths {
  std::uint32_t head = 0;
  std::uint32_t body = 0;
};

Status sendPart(int socket, std::string_view bytes) {
  while (!bytes.empty()) {
    ssize_t sent = ::send(socket, bytes.data(), bytes.size(), MSG_NOSIGNAL);
    if (sent < 0 && errno == EINTR) continue;
    if (sent < 0) return sysError("send to the other half of a pull");
    bytes.remove_prefix(static_cast<std::size_t>(sent));
  }
  return {};
}

// The lengths carry the descriptor: they go in one call.
Status sendLengths(int socket, const Lengths& lengths, int fd) {
  iovec part{const_cast<Lengths*>(&lengths), sizeof lengths};
  msghdr message{};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  alignas(cmsghdr) std::array<char, CMSG_SPACE(sizeof(int))> control{};
  if (fd >= 0) {
    message.msg_control = control.data();
    message.msg_controllen = control.size();
    cmsghdr* header = CMSG_FIRSTHDR(&message);
    header->cmsg_level = SOL_SOCKET;
    header->cmsg_type = SCM_RIGHTS;
    header->cmsg_len = CMSG_LEN(sizeof(int));
    std::memcpy(CMSG_DATA(header), &fd, sizeof fd);
  }
  for (;;) {
    ssize_t sent = ::sendmsg(socket, &message, MSG_NOSIGNAL);
    if (sent == static_cast<ssize_t>(sizeof lengths)) return {};
    if (sent >= 0) return Error(Code::Internal, "send to the other half of a pull: cut short");
    if (errno != EINTR) return sysError("send to the other half of a pull");
  }
}

// false: the end before the first byte.
Result<bool> receivePart(int socket, char* bytes, std::size_t size) {
  std::size_t done = 0;
  while (done < size) {
    ssize_t count = ::recv(socket, bytes + done, size - done, 0);
    if (count < 0 && errno == EINTR) continue;
    if (count < 0 && errno != ECONNRESET) return sysError("receive from the other half of a pull");
    if (count <= 0 && done == 0) return false;
    if (count <= 0) return Error(Code::Internal, "receive from the other half of a pull: cut short");
    done += static_cast<std::size_t>(count);
  }
  return true;
}

Result<bool> receiveLengths(int socket, Lengths& lengths, UniqueFd& fd) {
  iovec part{&lengths, sizeof lengths};
  msghdr message{};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  alignas(cmsghdr) std::array<char, CMSG_SPACE(sizeof(int))> control{};
  message.msg_control = control.data();
  message.msg_controllen = control.size();
  ssize_t count = 0;
  do count = ::recvmsg(socket, &message, MSG_CMSG_CLOEXEC);
  while (count < 0 && errno == EINTR);
  if (count == 0 || (count < 0 && errno == ECONNRESET)) return false;
  if (count < 0) return sysError("receive from the other half of a pull");
  for (cmsghdr* header = CMSG_FIRSTHDR(&message); header != nullptr; header = CMSG_NXTHDR(&message, header)) {
    if (header->cmsg_level != SOL_SOCKET || header->cmsg_type != SCM_RIGHTS) continue;
    int received = -1;
    std::memcpy(&received, CMSG_DATA(header), sizeof received);
    fd.reset(received);
  }
  auto done = static_cast<std::size_t>(count);
  USERPOD_TRY(rest, receivePart(socket, reinterpret_cast<char*>(&lengths) + done, sizeof lengths - done));
  if (!rest || lengths.head > kLargestPart || lengths.body > kLargestPart)
    return Error(Code::Internal, "receive from the other half of a pull: no message");
  return true;
}

}  // namespace

Status Channel::send(const nlohmann::json& head, std::string_view body, int fd) {
  std::string text = head.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
  if (text.size() > kLargestPart || body.size() > kLargestPart)
    return Error(Code::LimitsExceeded, "a message between the halves of a pull is longer than 16 MB");
  std::lock_guard lock(sending_);
  USERPOD_CHECK(sendLengths(socket_.get(),
                            {static_cast<std::uint32_t>(text.size()), static_cast<std::uint32_t>(body.size())}, fd));
  USERPOD_CHECK(sendPart(socket_.get(), text));
  return sendPart(socket_.get(), body);
}

Result<std::optional<Message>> Channel::receive() {
  Lengths lengths;
  Message message;
  USERPOD_TRY(any, receiveLengths(socket_.get(), lengths, message.fd));
  if (!any) return std::optional<Message>();
  message.head.resize(lengths.head);
  message.body.resize(lengths.body);
  for (auto* part : {&message.head, &message.body}) {
    USERPOD_TRY(whole, receivePart(socket_.get(), part->data(), part->size()));
    if (!whole && !part->empty()) return Error(Code::Internal, "receive from the other half of a pull: cut short");
  }
  return std::optional<Message>(std::move(message));
}

}  // namespace userpod::images

#include "daemon/sys/journal.hpp"

#include <fmt/core.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>

#include <cerrno>
#include <cstring>

namespace userpod {
namespace {

constexpr std::size_t kLongestValue = 16 << 10;
constexpr int kPatienceMs = 200;  // for a burst: the journal's queue has room for some hundred entries

std::string lostEntry(std::uint64_t lost) {
  std::string entry;
  appendJournalField(entry, "MESSAGE", fmt::format("{} messages were lost while the journal took none", lost));
  appendJournalField(entry, "PRIORITY", "4");
  appendJournalField(entry, "SYSLOG_IDENTIFIER", program_invocation_short_name);
  appendJournalField(entry, "LOST_MESSAGES", std::to_string(lost));
  return entry;
}

}  // namespace

void appendJournalField(std::string& entry, std::string_view name, std::string_view value) {
  bool cut = value.size() > kLongestValue;
  std::string shortened;
  if (cut) {
    shortened = std::string(value.substr(0, kLongestValue)) + "...";
    value = shortened;
  }
  entry += name;
  if (value.find('\n') == std::string_view::npos) {
    entry += '=';
  } else {
    entry += '\n';
    for (std::uint64_t size = value.size(), i = 0; i < 8; ++i, size >>= 8) entry += static_cast<char>(size & 255);
  }
  entry += value;
  entry += '\n';
}

bool JournalSocket::connect() {
  if (socket_) return true;
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (path_.size() >= sizeof address.sun_path) return false;
  path_.copy(address.sun_path, path_.size());
  UniqueFd made(::socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!made || ::connect(made.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) < 0) return false;
  socket_ = std::move(made);
  return true;
}

int JournalSocket::trySend(std::string_view entry) {
  for (;;) {
    if (::send(socket_.get(), entry.data(), entry.size(), MSG_DONTWAIT | MSG_NOSIGNAL) >= 0) return 0;
    if (errno != EINTR) return errno;
  }
}

JournalSocket::Sent JournalSocket::sendNow(std::string_view entry) {
  if (!connect()) return Sent::Gone;
  int failure = trySend(entry);
  if (failure != 0 && failure != EAGAIN && failure != ENOBUFS && failure != EMSGSIZE) {
    // Another journal may be there by now.
    socket_.reset();
    if (!connect()) return Sent::Gone;
    failure = trySend(entry);
  }
  if (failure == EAGAIN && !full_) {
    pollfd room{socket_.get(), POLLOUT, 0};
    if (::poll(&room, 1, kPatienceMs) > 0) failure = trySend(entry);
  }
  full_ = failure == EAGAIN;
  return failure == 0 ? Sent::Yes : Sent::Full;
}

JournalSocket::Sent JournalSocket::send(std::string_view entry) {
  std::lock_guard lock(mutex_);
  if (lost_ > 0 && sendNow(lostEntry(lost_)) == Sent::Yes) lost_ = 0;
  Sent sent = lost_ > 0 && full_ ? Sent::Full : sendNow(entry);
  if (sent == Sent::Full) ++lost_;
  return sent;
}

void JournalSocket::countLost() {
  std::lock_guard lock(mutex_);
  ++lost_;
}

}  // namespace userpod

// The journal's native socket, as in systemd's JOURNAL_NATIVE_PROTOCOL. libsystemd's own sender waits for a journal
// that takes nothing, as long as that lasts: with it a stopped journal would stop the daemon.
#pragma once

#include <cstdint>
#include <mutex>
#include <string>
#include <string_view>

#include "daemon/sys/fd.hpp"

namespace userpod {

// Any thread.
class JournalSocket {
 public:
  explicit JournalSocket(std::string path = "/run/systemd/journal/socket") : path_(std::move(path)) {}

  enum class Sent {
    Yes,
    Full,  // the journal takes nothing: the entry is lost, and counted
    Gone,  // there is no journal: the entry is the caller's to tell elsewhere
  };
  // Waits at most a fifth of a second, and that once for as long as the journal takes nothing. The first entry that is
  // taken again comes after one that says how many were lost.
  Sent send(std::string_view entry);
  // One more that nobody took.
  void countLost();

 private:
  Sent sendNow(std::string_view entry);
  int trySend(std::string_view entry);  // errno
  bool connect();

  const std::string path_;
  std::mutex mutex_;
  UniqueFd socket_;  // guarded by mutex_, as the rest
  bool full_ = false;
  std::uint64_t lost_ = 0;
};

// "NAME=value\n", or with the length before a value that has lines; appended to an entry. A value is cut at 16 KiB, as
// an entry must fit into one datagram.
void appendJournalField(std::string& entry, std::string_view name, std::string_view value);

}  // namespace userpod

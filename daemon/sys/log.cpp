#include "daemon/sys/log.hpp"

#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstdlib>

#include "daemon/sys/journal.hpp"

namespace userpod {
namespace {

std::atomic<Level> highestLevel{Level::Info};

// systemd sets JOURNAL_STREAM=device:inode of the stream it gave us; only then is standard error the journal.
bool stderrIsJournal() {
  const char* value = std::getenv("JOURNAL_STREAM");
  struct stat info{};
  if (value == nullptr || ::fstat(STDERR_FILENO, &info) < 0) return false;
  return fmt::format("{}:{}", info.st_dev, info.st_ino) == value;
}

std::string entryOf(Level level, std::string_view text, const LogFields& fields) {
  std::string entry;
  appendJournalField(entry, "MESSAGE", text);
  appendJournalField(entry, "PRIORITY", std::to_string(static_cast<int>(level)));
  appendJournalField(entry, "SYSLOG_IDENTIFIER", program_invocation_short_name);
  for (const auto& [name, value] : fields) appendJournalField(entry, name, value);
  return entry;
}

// systemd reads the <N> prefix from a stream; a terminal gets plain text. One write, so that lines never mix.
std::string lineOf(Level level, std::string_view text, const LogFields& fields) {
  std::string line =
      ::isatty(STDERR_FILENO) != 0 ? std::string(text) : fmt::format("<{}>{}", static_cast<int>(level), text);
  for (const auto& [name, value] : fields) line += fmt::format(" {}={}", name, value);
  std::replace(line.begin(), line.end(), '\n', ' ');
  return line + '\n';
}

void sendToJournal(const std::string& entry, Level level, std::string_view text, const LogFields& fields) {
  // Never destroyed: threads log to the last.
  static auto* journal = new JournalSocket;
  if (journal->send(entry) != JournalSocket::Sent::Gone) return;
  // The stream that the journal gave us may have survived it; it may be full, or closed, as well.
  std::string line = lineOf(level, text, fields);
  if (::send(STDERR_FILENO, line.data(), line.size(), MSG_DONTWAIT | MSG_NOSIGNAL) < 0) journal->countLost();
}

}  // namespace

Level levelNamed(std::string_view name) {
  if (name == "error") return Level::Error;
  if (name == "warning") return Level::Warning;
  if (name == "notice") return Level::Notice;
  if (name == "debug") return Level::Debug;
  return Level::Info;
}

void setLogLevel(Level highest) {
  highestLevel = highest;
}
Level logLevel() {
  return highestLevel;
}

bool logsToJournal() {
  static const bool journal = stderrIsJournal();
  return journal;
}

void ArgumentFields::add(const Error& error) {
  fields_.emplace_back("USERPOD_ERROR", codeName(error.code()));
  if (error.sysErrno() == 0 || !number_.empty()) return;
  number_ = std::to_string(error.sysErrno());
  fields_.emplace_back("ERRNO", number_);
}

void logMessage(Level level, std::string_view text, const LogFields& fields) {
  if (level > highestLevel) return;
  if (logsToJournal()) return sendToJournal(entryOf(level, text, fields), level, text, fields);
  std::string line = lineOf(level, text, fields);
  (void)!::write(STDERR_FILENO, line.data(), line.size());
}

void logFailure(Level level, const Error& error, const LogFields& fields, std::string_view before) {
  if (level > highestLevel) return;
  ArgumentFields own(error);
  LogFields all = fields;
  all.insert(all.end(), own.fields().begin(), own.fields().end());
  logMessage(level, before.empty() ? error.text() : fmt::format("{}: {}", before, error.text()), all);
}

}  // namespace userpod

#include "daemon/sys/log.hpp"

#include <sys/stat.h>
#include <sys/uio.h>
#include <systemd/sd-journal.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cctype>
#include <cstdio>
#include <cstdlib>
#include <vector>

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

bool sendToJournal(Level level, std::string_view text, std::initializer_list<LogField> fields) {
  std::vector<std::string> entries;
  entries.push_back(fmt::format("MESSAGE={}", text));
  entries.push_back(fmt::format("PRIORITY={}", static_cast<int>(level)));
  for (const auto& [name, value] : fields) entries.push_back(fmt::format("{}={}", name, value));
  std::vector<iovec> vectors;
  vectors.reserve(entries.size());
  for (auto& entry : entries) vectors.push_back({entry.data(), entry.size()});
  return sd_journal_sendv(vectors.data(), static_cast<int>(vectors.size())) == 0;
}

}  // namespace

void setLogLevel(Level highest) {
  highestLevel = highest;
}
Level logLevel() {
  return highestLevel;
}

void logMessage(Level level, std::string_view text, std::initializer_list<LogField> fields) {
  if (level > highestLevel) return;
  static const bool journal = stderrIsJournal();
  if (journal && sendToJournal(level, text, fields)) return;
  // systemd reads the <N> prefix from a stream; a terminal gets plain text. One write, so that lines never mix.
  std::string line =
      ::isatty(STDERR_FILENO) != 0 ? std::string(text) : fmt::format("<{}>{}", static_cast<int>(level), text);
  for (const auto& [name, value] : fields) line += fmt::format(" {}={}", name, value);
  std::replace(line.begin(), line.end(), '\n', ' ');
  line += '\n';
  (void)!::write(STDERR_FILENO, line.data(), line.size());
}

}  // namespace userpod

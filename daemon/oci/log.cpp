// Opening a container's log anew, for rotation.
#include <poll.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

#include "daemon/oci/runtime_impl.hpp"
#include "daemon/sys/fd.hpp"

namespace userpod::oci {
namespace {

constexpr std::chrono::seconds kAnswerTime{2};

// Until the file at `path` is `wanted`.
bool arrives(const std::string& path, const struct stat& wanted) {
  auto end = std::chrono::steady_clock::now() + kAnswerTime;
  for (int pause = 1;; pause = std::min(pause * 2, 50)) {
    struct stat found{};
    if (::stat(path.c_str(), &found) == 0 && found.st_dev == wanted.st_dev && found.st_ino == wanted.st_ino)
      return true;
    if (std::chrono::steady_clock::now() > end) return false;
    ::poll(nullptr, 0, pause);
  }
}

Status swapLog(const std::string& bundle, const std::string& logPath, const std::string& temporary) {
  USERPOD_TRY(file, openFile(temporary, O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW, 0640));
  struct stat made{};
  if (::fstat(file.get(), &made) < 0) return sysError("stat " + temporary);
  USERPOD_CHECK(tellMonitor(bundle, "2 0 0\n"));
  if (!arrives(logPath, made))
    return Error(Code::Timeout, "conmon did not open " + logPath + " anew within two seconds; try again later");
  return {};
}

}  // namespace

// Told so, conmon makes <log>.tmp, renames it to the log's path and writes there. Where it cannot make that file it
// ends, and with it the container: so the file is made here first, and its inode tells when it has come to its place.
Status reopenLog(const std::string& bundle, const std::string& logPath) {
  struct stat found{};
  if (::lstat(logPath.c_str(), &found) == 0 && S_ISDIR(found.st_mode))
    return Error(Code::InvalidState, "a directory is in the place of the log " + logPath + "; move it away");
  if (auto status = makeDirectories(logPath.substr(0, logPath.rfind('/')), 0755); !status)
    return std::move(status).error().wrap("directory of the log");
  std::string temporary = logPath + ".tmp";
  auto status = swapLog(bundle, logPath, temporary);
  if (!status) ::unlink(temporary.c_str());
  return status;
}

}  // namespace userpod::oci

// What of a check needs no daemon: databases, the directories' modes, the file system.
#include "dbus/userpodctl/check_offline.hpp"

#include <fmt/core.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>

#include "daemon/store/sqlite.hpp"
#include "daemon/sys/fd.hpp"
#include "userns/diagnose.hpp"

namespace userpod::ctl {
namespace {

using Severity = Finding::Severity;
constexpr unsigned kPrivate = 0700;

void checkDirectory(const std::string& path, Findings& found) {
  struct stat info{};
  if (::lstat(path.c_str(), &info) < 0) {
    if (errno != ENOENT)
      found.push_back({"path-unreadable", Severity::Error, "file", path, sysError("look at it").text(),
                       "make the directories above it readable for yourself", false});
    return;
  }
  unsigned mode = info.st_mode & 07777U;
  if (info.st_uid != ::getuid())
    found.push_back({"owner-wrong", Severity::Error, "file", path, fmt::format("it belongs to uid {}", info.st_uid),
                     "chown it to yourself", false});
  else if (!S_ISDIR(info.st_mode))
    found.push_back({"path-missing", Severity::Error, "file", path, "it is no directory", "move it away", false});
  else if ((mode & kPrivate) != kPrivate || (mode & ~kPrivate) != 0)
    found.push_back({"mode-wrong", (mode & kPrivate) != kPrivate ? Severity::Error : Severity::Warning, "file", path,
                     fmt::format("its mode is {:04o}, it must be {:04o}", mode, kPrivate),
                     fmt::format("chmod {:o} {}", kPrivate, path), true});
}

void checkFile(const std::string& path, const char* mend, Findings& found) {
  struct stat info{};
  if (::lstat(path.c_str(), &info) < 0) return;
  auto checked = store::checkDatabase(path, true);
  if (checked) return;
  bool damaged = store::isDamage(checked.error());
  found.push_back({damaged ? "database-damaged" : "database-unreadable", Severity::Error, "database", path,
                   checked.error().text(), damaged ? mend : store::kUnreadableMend, false});
}

}  // namespace

Findings offlineFindings(const Paths& paths) {
  Findings found;
  checkDirectory(paths.data, found);
  checkDirectory(paths.runtime, found);
  checkFile(paths.imageDatabase(),
            "systemctl --user restart userpod.service sets it aside and begins anew; images have to be pulled again",
            found);
  checkFile(paths.liveDatabase(),
            "systemctl --user restart userpod.service sets it aside; what runs of the pods in it is ended", found);
  auto settings = loadSettings(paths);
  if (!settings)
    found.push_back({"settings-invalid", Severity::Error, "file", paths.config, settings.error().text(),
                     "correct it; see userpod.toml(5)", false});
  for (const auto& check : diagnoseHost(paths, settings ? *settings : Settings{})) {
    bool error = check.severity == Check::Severity::Error;
    if (!error && !(check.name == "free-space" && check.severity == Check::Severity::Warning)) continue;
    found.push_back({"host-" + check.name, error ? Severity::Error : Severity::Warning, "file", check.name,
                     check.message, check.hints.empty() ? "userpodctl doctor" : check.hints.front(), false});
  }
  return found;
}

void repairOffline(Findings& findings) {
  for (auto& finding : findings) {
    if (finding.code != "mode-wrong") continue;
    finding.repaired = ::chmod(finding.id.c_str(), kPrivate) == 0;
    if (!finding.repaired) finding.failure = sysError("chmod").text();
  }
}

}  // namespace userpod::ctl

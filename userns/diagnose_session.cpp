// The user's systemd and bus, linger, and quotas that all processes of the user share.
#include <fmt/core.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <cstdlib>
#include <cstring>

#include "daemon/sys/fd.hpp"
#include "daemon/sys/util.hpp"
#include "userns/diagnose_checks.hpp"

namespace userpod::diagnose {
namespace {

std::string runtimeRoot(const Scene& scene) { return scene.paths.runtime.substr(0, scene.paths.runtime.rfind('/')); }

bool answers(const std::string& path) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (path.size() >= sizeof(address.sun_path)) return false;
  std::memcpy(address.sun_path, path.data(), path.size());
  UniqueFd socket(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  return socket && ::connect(socket.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)) == 0;
}

Check checkManager(const Scene& scene) {
  constexpr const char* kName = "user-manager";
  std::string socket = runtimeRoot(scene) + "/systemd/private";
  if (answers(socket)) return ok(kName, "systemd --user runs");
  return error(kName, "no systemd --user at " + socket,
               {"log in with a session of your own (ssh or a console, not su or sudo); sudo apt install libpam-systemd",
                "or, for a user who never logs in: sudo loginctl enable-linger " + scene.user});
}

Check checkBus(const Scene& scene) {
  constexpr const char* kName = "session-bus";
  const char* given = std::getenv("DBUS_SESSION_BUS_ADDRESS");
  std::string_view address = given != nullptr ? given : "";
  std::string path = runtimeRoot(scene) + "/bus";
  constexpr std::string_view kUnix = "unix:path=";
  if (address.substr(0, kUnix.size()) == kUnix) path = std::string(split(address.substr(kUnix.size()), ',').front());
  else if (!address.empty()) return ok(kName, fmt::format("at {}, not tried", address));
  if (answers(path)) return ok(kName, "answers at " + path);
  return warning(kName, "no session bus at " + path + ": no desktop integration; the CRI works without it",
                 {"sudo apt install dbus-user-session, then log in again"});
}

Check checkLinger(const Scene& scene) {
  constexpr const char* kName = "linger";
  struct stat found{};
  if (::stat(("/var/lib/systemd/linger/" + scene.user).c_str(), &found) == 0)
    return ok(kName, "on: pods stay after logout and start at boot");
  return info(kName, "off: pods end with the last session of " + scene.user, {"loginctl enable-linger"});
}

Check checkKeyring(const Scene&) {
  constexpr const char* kName = "keyring-quota";
  auto limit = kernelNumber("/proc/sys/kernel/keys/maxkeys");
  if (!limit) return ok(kName, "the kernel has no keyrings");
  // "  UID: usage nkeys/nikeys qnkeys/maxkeys qnbytes/maxbytes"; the uids are those of the reader's user namespace.
  long long used = 0;
  for (const auto& line : split(kernelText("/proc/key-users").value_or(""), '\n')) {
    unsigned uid = 0;
    long long keys = 0;
    if (std::sscanf(line.c_str(), "%u: %*d %*d/%*d %lld/", &uid, &keys) == 2 && uid == ::getuid()) used = keys;
  }
  std::string found = fmt::format("{} of {} keys used (kernel.keys.maxkeys)", used, *limit);
  if (used + 20 < *limit) return ok(kName, found + "; userpod makes none per container");
  return warning(kName, found, {"echo kernel.keys.maxkeys=20000 | sudo tee /etc/sysctl.d/50-userpod-keys.conf && sudo sysctl --system"});
}

Check checkNumber(const char* name, const char* sysctl, const char* path, long long enough, const char* unit, const char* use) {
  auto value = kernelNumber(path);
  if (!value) return ok(name, fmt::format("not limited by {}", sysctl));
  std::string found = fmt::format("{} {} ({})", *value, unit, sysctl);
  if (*value == 0 || *value >= enough) return ok(name, *value == 0 ? fmt::format("no limit ({})", sysctl) : found);
  return info(name, fmt::format("{}: {}", found, use),
              {fmt::format("echo {}={} | sudo tee /etc/sysctl.d/50-userpod-{}.conf && sudo sysctl --system", sysctl, enough, name)});
}

std::string limitText(rlim_t value) { return value == RLIM_INFINITY ? "unlimited" : std::to_string(value); }

Check checkLimit(const char* name, decltype(RLIMIT_NOFILE) resource, rlim_t enough, const char* setting) {
  rlimit limit{};
  if (::getrlimit(resource, &limit) < 0) return warning(name, sysError("getrlimit").text(), {});
  std::string found = fmt::format("at most {} (hard limit)", limitText(limit.rlim_max));
  if (limit.rlim_max == RLIM_INFINITY || limit.rlim_max >= enough) return ok(name, found);
  return warning(name, fmt::format("{}: few for many containers", found),
                 {fmt::format("sudo mkdir -p /etc/systemd/system/user@.service.d && printf '[Service]\\n{0}={1}\\n' | sudo tee "
                              "/etc/systemd/system/user@.service.d/{0}.conf && sudo systemctl daemon-reload, then log in again",
                              setting, enough)});
}

}  // namespace

std::vector<Check> checkSession(const Scene& scene) {
  return {
      checkManager(scene),
      checkBus(scene),
      checkLinger(scene),
      checkKeyring(scene),
      checkNumber("inotify-instances", "fs.inotify.max_user_instances", "/proc/sys/fs/inotify/max_user_instances", 1024,
                  "instances", "every running container's monitor takes one, beside the desktop's programs"),
      checkNumber("inotify-watches", "fs.inotify.max_user_watches", "/proc/sys/fs/inotify/max_user_watches", 16384, "watches",
                  "few for many containers"),
      checkNumber("pipe-quota", "fs.pipe-user-pages-soft", "/proc/sys/fs/pipe-user-pages-soft", 16384, "pages",
                  "pipes of containers get small buffers and logs slow down"),
      checkLimit("open-files", RLIMIT_NOFILE, 65536, "LimitNOFILE"),
      checkLimit("processes", RLIMIT_NPROC, 4096, "LimitNPROC"),
  };
}

}  // namespace userpod::diagnose

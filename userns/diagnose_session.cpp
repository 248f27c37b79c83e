// The user's systemd and bus, linger.
#include <fmt/core.h>
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

std::string runtimeRoot(const Scene& scene) {
  return scene.paths.runtime.substr(0, scene.paths.runtime.rfind('/'));
}

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
  if (address.substr(0, kUnix.size()) == kUnix)
    path = std::string(split(address.substr(kUnix.size()), ',').front());
  else if (!address.empty())
    return ok(kName, fmt::format("at {}, not tried", address));
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

}  // namespace

std::vector<Check> checkSession(const Scene& scene) {
  return {checkManager(scene), checkBus(scene), checkLinger(scene)};
}

}  // namespace userpod::diagnose

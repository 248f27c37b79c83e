// Subordinate ids, the two setuid helpers, user namespaces.
#include <fmt/core.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <sstream>

#include "daemon/sys/child.hpp"
#include "daemon/sys/util.hpp"
#include "userns/diagnose_checks.hpp"
#include "userns/idmap.hpp"

namespace userpod::diagnose {
namespace {

constexpr std::uint64_t kUsualIds = 65536;  // what images expect: ids 0 to 65535

Check checkUser(const Scene& scene) {
  constexpr const char* kName = "ordinary-user";
  if (scene.inNode || ::getuid() != 0) return ok(kName, fmt::format("user {}, uid {}", scene.user, scene.hostUid));
  return error(kName, "this is root; userpod belongs to an ordinary user",
               {"run it as an ordinary user in a login session of its own"});
}

// Ids beyond the own one that a map gives.
std::uint64_t subordinate(const std::vector<IdMapping>& map) {
  std::uint64_t count = 0;
  for (std::size_t i = 1; i < map.size(); ++i) count += map[i].count;
  return count;
}

std::uint64_t mappedHere(const char* path) {
  std::istringstream lines(kernelText(path).value_or(""));
  std::uint64_t inside = 0, outside = 0, count = 0, sum = 0;
  while (lines >> inside >> outside >> count) sum += count;
  return sum > 0 ? sum - 1 : 0;
}

Check checkSubordinateIds(const Scene& scene) {
  constexpr const char* kName = "subordinate-ids";
  std::uint64_t users = 0, groups = 0;
  if (scene.inNode) {
    users = mappedHere("/proc/self/uid_map");
    groups = mappedHere("/proc/self/gid_map");
  } else if (auto maps = ownIdMaps(); maps) {
    users = subordinate(maps->users);
    groups = subordinate(maps->groups);
  } else {
    return error(kName, maps.error().text(),
                 {fmt::format("sudo usermod --add-subuids 100000-165535 --add-subgids 100000-165535 {}  # ids that no "
                              "other line of /etc/subuid and /etc/subgid has",
                              scene.user)});
  }
  if (users >= kUsualIds && groups >= kUsualIds)
    return ok(kName, fmt::format("{} user and {} group ids", users, groups));
  return warning(
      kName, fmt::format("{} user and {} group ids: images with files of higher ids cannot be unpacked", users, groups),
      {fmt::format("sudo usermod --add-subuids 100000-165535 --add-subgids 100000-165535 {}", scene.user),
       "then: userpodctl reset (files on disk are owned by the old ids)"});
}

Check checkMapper(const Scene& scene, const std::string& program) {
  if (scene.inNode) return notFromNode(program);
  const std::vector<std::string> reinstall = {"sudo apt install --reinstall uidmap"};
  auto path = findProgram(program);
  if (!path) return error(program, path.error().text(), {"sudo apt install uidmap"});
  struct stat found{};
  struct statvfs system{};
  if (::stat(path->c_str(), &found) < 0 || ::statvfs(path->c_str(), &system) < 0)
    return error(program, sysError(*path).text(), reinstall);
  bool setuid = (found.st_mode & S_ISUID) != 0 && found.st_uid == 0;
  bool capable = ::getxattr(path->c_str(), "security.capability", nullptr, 0) > 0;
  if (!setuid && !capable)
    return error(program, *path + " is neither setuid root nor has file capabilities", reinstall);
  if ((system.f_flag & ST_NOSUID) != 0)
    return error(program, *path + " is on a file system that is mounted nosuid: it cannot gain privilege",
                 {"sudo mount -o remount,suid the file system of " + *path});
  if (::prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0) == 1)
    return error(program, "this process has no_new_privs: " + program + " cannot gain privilege from here",
                 {"run from a login session, not from a sandbox or a unit with NoNewPrivileges"});
  return ok(program, fmt::format("{} ({})", *path, setuid ? "setuid root" : "file capabilities"));
}

Check checkUserNamespaces(const Scene& scene) {
  constexpr const char* kName = "user-namespaces";
  auto limit = kernelNumber("/proc/sys/user/max_user_namespaces");
  Probe probe = probeUserNamespace();
  if (probe.step == Probe::Step::Done) {
    if (limit && *limit < 100)
      return warning(kName, fmt::format("allowed, but at most {} (user.max_user_namespaces)", *limit),
                     {"sudo sysctl -w user.max_user_namespaces=15000"});
    return ok(kName, scene.inNode ? "the node has one, and one below it can be made" : "allowed, and tried");
  }
  if (probe.step == Probe::Step::Fork) return warning(kName, sysError("not tried", probe.sysErrno).text(), {});
  Error why = userNamespaceError(probe.sysErrno);
  if (probe.step != Probe::Step::UserNamespace)
    return error(kName,
                 fmt::format("a user namespace can be made, but has no privilege inside ({}): {}",
                             probe.step == Probe::Step::IdMap ? "its id map is refused" : "a mount is refused",
                             sysError("mount", probe.sysErrno).text()),
                 {why.text()});
  std::vector<std::string> hints;
  if (kernelNumber("/proc/sys/kernel/unprivileged_userns_clone") == 0)
    hints.push_back(
        "echo kernel.unprivileged_userns_clone=1 | sudo tee /etc/sysctl.d/50-userpod.conf && sudo sysctl --system");
  if (limit == 0)
    hints.push_back(
        "echo user.max_user_namespaces=15000 | sudo tee /etc/sysctl.d/50-userpod.conf && sudo sysctl --system");
  return error(kName, why.text(), hints);
}

Check checkAppArmor(const Scene&) {
  constexpr const char* kName = "apparmor";
  if (kernelNumber("/proc/sys/kernel/apparmor_restrict_unprivileged_userns").value_or(0) != 1)
    return ok(kName, "does not restrict user namespaces");
  if (::access("/etc/apparmor.d/userpod", F_OK) == 0)
    return ok(kName, "restricts user namespaces; userpod has a profile");
  return error(kName, "AppArmor lets only named programs use user namespaces, and userpod is not among them",
               {"sudo cp " USERPOD_DATADIR
                "/apparmor/extra-profiles/userpod /etc/apparmor.d/ && sudo systemctl reload apparmor"});
}

}  // namespace

std::vector<Check> checkIdentity(const Scene& scene) {
  return {checkUser(scene),
          checkSubordinateIds(scene),
          checkMapper(scene, "newuidmap"),
          checkMapper(scene, "newgidmap"),
          checkUserNamespaces(scene),
          checkAppArmor(scene)};
}

}  // namespace userpod::diagnose

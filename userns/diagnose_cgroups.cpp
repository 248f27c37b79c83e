// cgroup v2 and the controllers that the system's systemd gives to the user's.
#include <fmt/core.h>
#include <linux/magic.h>
#include <sys/vfs.h>

#include <algorithm>

#include "daemon/sys/util.hpp"
#include "userns/diagnose_checks.hpp"

namespace userpod::diagnose {
namespace {

constexpr const char* kRoot = "/sys/fs/cgroup";

struct Controller {
  const char* name;
  Check::Severity severity;  // of its absence
  const char* use;
};
constexpr std::array kControllers = {
    Controller{"cpu", Check::Severity::Warning, "cpu limits and shares do not work"},
    Controller{"memory", Check::Severity::Warning, "memory limits and out-of-memory reports do not work"},
    Controller{"pids", Check::Severity::Warning,
               "process limits do not work: one container can use up all of the user's"},
    Controller{"cpuset", Check::Severity::Info, "containers cannot be bound to processors"},
    Controller{"io", Check::Severity::Info, "disk weights and limits do not work"},
};

Check checkVersion() {
  constexpr const char* kName = "cgroup-v2";
  struct statfs found{};
  if (::statfs(kRoot, &found) == 0 && found.f_type == CGROUP2_SUPER_MAGIC)
    return ok(kName, "cgroup2 at /sys/fs/cgroup");
  return error(kName, "/sys/fs/cgroup is not cgroup v2: userpod works with no other version",
               {"add systemd.unified_cgroup_hierarchy=1 to the kernel's command line (GRUB_CMDLINE_LINUX in "
                "/etc/default/grub, then sudo update-grub) and reboot"});
}

// The controllers that the node's unit can have. In the node /sys/fs/cgroup is the unit's own cgroup.
std::optional<std::vector<std::string>> available(const Scene& scene) {
  std::string directory = kRoot;
  if (!scene.inNode) directory += fmt::format("/user.slice/user-{0}.slice/user@{0}.service", scene.hostUid);
  auto text = kernelText(directory + "/cgroup.controllers");
  if (!text) return std::nullopt;
  return split(*text, ' ');
}

bool contains(const std::vector<std::string>& list, std::string_view word) {
  return std::find(list.begin(), list.end(), word) != list.end();
}

Check checkController(const Scene& scene, const Controller& controller, const std::vector<std::string>& delegated) {
  std::string name = std::string("cgroup-controller-") + controller.name;
  if (contains(delegated, controller.name)) return ok(name, "delegated");
  auto make = controller.severity == Check::Severity::Warning ? warning : info;
  auto root = split(kernelText(std::string(kRoot) + "/cgroup.controllers").value_or(""), ' ');
  if (!scene.inNode && !contains(root, controller.name))
    return make(name, fmt::format("this system has no {} controller in cgroup v2: {}", controller.name, controller.use),
                {"use a kernel that has it, not switched off on its command line and not in use by cgroup v1"});
  std::string unit = scene.inNode ? "the node" : fmt::format("user@{}.service", scene.hostUid);
  return make(
      name, fmt::format("not delegated to {}: {}", unit, controller.use),
      {"sudo mkdir -p /etc/systemd/system/user@.service.d && printf '[Service]\\nDelegate=cpu cpuset io memory "
       "pids\\n' | sudo tee /etc/systemd/system/user@.service.d/delegate.conf && sudo systemctl daemon-reload",
       fmt::format("then: sudo systemctl restart user@{}.service, or log out everywhere and in again", scene.hostUid)});
}

}  // namespace

std::vector<Check> checkCgroups(const Scene& scene) {
  std::vector<Check> checks = {checkVersion()};
  if (checks[0].severity == Check::Severity::Error) return checks;
  auto delegated = available(scene);
  if (!delegated) {
    checks.push_back(
        error("cgroup-delegation", fmt::format("user@{}.service does not run: no cgroup to work in", scene.hostUid),
              {"log in with a session of your own (pam_systemd: sudo apt install libpam-systemd), or: sudo "
               "loginctl enable-linger " +
               scene.user}));
    return checks;
  }
  for (const auto& controller : kControllers) checks.push_back(checkController(scene, controller, *delegated));
  return checks;
}

}  // namespace userpod::diagnose

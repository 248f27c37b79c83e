// What the host lets one user have in all, his desktop included: enough for 500 pods, or which setting to raise.
#include <dirent.h>
#include <fmt/core.h>
#include <sys/resource.h>
#include <unistd.h>

#include <memory>

#include "daemon/sys/util.hpp"
#include "userns/diagnose_checks.hpp"

namespace userpod::diagnose {
namespace {

// A kernel setting that must be at least `enough`. What 500 pods of one container take tells tests/integration/
// many_test.py: 16 pages for each of two pipes a container, one namespace of each kind, four tasks, five mounts.
struct Quota {
  const char* name;
  const char* sysctl;
  long long enough;
  long long raised;  // what to set when it is less
  const char* unit;
  const char* use;  // what happens then
  Check::Severity severity = Check::Severity::Warning;
  bool zeroIsNone = false;
};
constexpr std::array kQuotas = {
    Quota{"inotify-watches", "fs.inotify.max_user_watches", 4096, 65536, "watches",
          "one for each container, beside the desktop's"},
    Quota{"pipe-quota", "fs.pipe-user-pages-soft", 20480, 65536, "pages",
          "32 for each container; with more of them pipes get small buffers and logs slow down", Check::Severity::Info,
          true},
    Quota{"pipe-hard-quota", "fs.pipe-user-pages-hard", 32768, 65536, "pages", "then no container can be made",
          Check::Severity::Warning, true},
    Quota{"process-ids", "kernel.pid_max", 8192, 4194304, "process ids", "too few for 500 pods and the desktop"},
    Quota{"threads", "kernel.threads-max", 8192, 65536, "threads", "too few for 500 pods and the desktop"},
    Quota{"mounts", "fs.mount-max", 16384, 100000, "mounts in a namespace", "too few for 500 pods"},
};
constexpr std::array kNamespaces = {"net", "ipc", "uts", "mnt", "pid", "cgroup"};
constexpr long long kEnoughNamespaces = 2048;
constexpr long long kEnoughTasks = 4096;
constexpr long long kFreeKeys = 20;  // one for each of the daemon's threads that start programs
constexpr long long kFreeKeyBytes = 1000;
constexpr long long kFreeInstances = 4;

std::string procPath(std::string sysctl) {
  for (char& c : sysctl)
    if (c == '.') c = '/';
  return "/proc/sys/" + sysctl;
}

std::string setCommand(const std::string& name, const std::string& sysctl, long long value) {
  return fmt::format("echo {}={} | sudo tee /etc/sysctl.d/50-userpod-{}.conf && sudo sysctl --system", sysctl, value,
                     name);
}

Check checkQuota(const Quota& quota) {
  auto value = kernelNumber(procPath(quota.sysctl));
  if (!value) return ok(quota.name, fmt::format("not limited by {}", quota.sysctl));
  if (*value == 0 && quota.zeroIsNone) return ok(quota.name, fmt::format("no limit ({})", quota.sysctl));
  std::string found = fmt::format("{} {} ({})", *value, quota.unit, quota.sysctl);
  if (*value >= quota.enough) return ok(quota.name, found);
  return {quota.name,
          quota.severity,
          fmt::format("{}: {}", found, quota.use),
          {setCommand(quota.name, quota.sysctl, quota.raised)}};
}

// Inside the node these settings are the node's own, and without limit.
std::vector<Check> checkNamespaces(const Scene& scene) {
  std::vector<Check> checks;
  for (const char* kind : kNamespaces) {
    std::string name = std::string(kind) + "-namespaces";
    std::string sysctl = fmt::format("user.max_{}_namespaces", kind);
    checks.push_back(scene.inNode ? notFromNode(name)
                                  : checkQuota({name.c_str(), sysctl.c_str(), kEnoughNamespaces, 15000, "namespaces",
                                                "each pod or container needs one, beside the desktop's"}));
  }
  return checks;
}

// "  UID: usage nkeys/nikeys qnkeys/maxkeys qnbytes/maxbytes"; the uids are those of the reader's user namespace.
Check checkKeyring(const Scene&) {
  constexpr const char* kName = "keyring-quota";
  long long keys = 0, maxKeys = 0, bytes = 0, maxBytes = 0;
  for (const auto& line : split(kernelText("/proc/key-users").value_or(""), '\n')) {
    unsigned uid = 0;
    long long values[4] = {};
    if (std::sscanf(line.c_str(), "%u: %*d %*d/%*d %lld/%lld %lld/%lld", &uid, &values[0], &values[1], &values[2],
                    &values[3]) != 5 ||
        uid != ::getuid())
      continue;
    keys = values[0], maxKeys = values[1], bytes = values[2], maxBytes = values[3];
  }
  if (maxKeys == 0) return ok(kName, "no keys yet, or a kernel without keyrings; userpod makes none per container");
  std::string found = fmt::format("{} of {} keys (kernel.keys.maxkeys) with {} of {} bytes (kernel.keys.maxbytes) used",
                                  keys, maxKeys, bytes, maxBytes);
  std::vector<std::string> hints;
  if (keys + kFreeKeys > maxKeys) hints.push_back(setCommand("keys", "kernel.keys.maxkeys", 20000));
  if (bytes + kFreeKeyBytes > maxBytes) hints.push_back(setCommand("key-bytes", "kernel.keys.maxbytes", 2000000));
  if (hints.empty()) return ok(kName, found + "; userpod makes none per container");
  return warning(kName, found, hints);
}

// inotify instances that this user's processes hold, as far as their descriptors can be read.
long long instancesInUse() {
  long long count = 0;
  auto each = [](const std::string& path, auto&& visit) {
    std::unique_ptr<DIR, int (*)(DIR*)> directory(::opendir(path.c_str()), &::closedir);
    while (const dirent* entry = directory ? ::readdir(directory.get()) : nullptr)
      if (entry->d_name[0] >= '0' && entry->d_name[0] <= '9') visit(path + "/" + entry->d_name);
  };
  each("/proc", [&](const std::string& process) {
    each(process + "/fd", [&](const std::string& descriptor) {
      char link[64] = {};
      if (::readlink(descriptor.c_str(), link, sizeof(link) - 1) > 0 && link == std::string_view("anon_inode:inotify"))
        ++count;
    });
  });
  return count;
}

Check checkInstances(const Scene& scene) {
  constexpr const char* kName = "inotify-instances";
  constexpr const char* kSysctl = "fs.inotify.max_user_instances";
  auto limit = kernelNumber(procPath(kSysctl));
  if (!limit) return ok(kName, "the kernel has no inotify");
  if (scene.inNode) return notFromNode(kName);
  long long used = instancesInUse();
  std::string found = fmt::format("{} of {} used ({})", used, *limit, kSysctl);
  if (used + kFreeInstances <= *limit)
    return ok(kName, found + "; userpod takes two, three with CNI, whatever the number of containers");
  return warning(kName, found + ": the daemon may not start, or a desktop program fail",
                 {setCommand(kName, kSysctl, 1024)});
}

// TasksMax of the user's slice and of his manager, as the cgroups have it.
Check checkTasks(const Scene& scene) {
  constexpr const char* kName = "tasks";
  if (scene.inNode) return notFromNode(kName);
  std::string slice = fmt::format("user-{}.slice", scene.hostUid);
  std::string manager = fmt::format("user@{}.service", scene.hostUid);
  std::vector<std::string> hints;
  std::string found;
  for (const auto& [unit, path] :
       {std::pair(slice, "/user.slice/" + slice), std::pair(manager, "/user.slice/" + slice + "/" + manager)}) {
    auto limit = kernelNumber("/sys/fs/cgroup" + path + "/pids.max");  // none: "max", or no pids controller
    if (!limit) continue;
    auto used = kernelNumber("/sys/fs/cgroup" + path + "/pids.current").value_or(0);
    found += fmt::format("{}{} of {} in {}", found.empty() ? "" : ", ", used, *limit, unit);
    if (*limit - used < kEnoughTasks)
      hints.push_back(fmt::format("sudo systemctl set-property {} TasksMax={}", unit, used + 4 * kEnoughTasks));
  }
  if (found.empty()) return ok(kName, "no TasksMax");
  if (hints.empty()) return ok(kName, found + " (TasksMax)");
  return warning(kName, found + " (TasksMax): too few for 500 pods", hints);
}

std::string limitText(rlim_t value) {
  return value == RLIM_INFINITY ? "unlimited" : std::to_string(value);
}

Check checkLimit(const char* name, decltype(RLIMIT_NOFILE) resource, const char* setting) {
  constexpr rlim_t kEnough = 4096;
  constexpr rlim_t kRaised = 65536;
  rlimit limit{};
  if (::getrlimit(resource, &limit) < 0) return warning(name, sysError("getrlimit").text(), {});
  std::string found = fmt::format("at most {} (hard limit)", limitText(limit.rlim_max));
  if (limit.rlim_max == RLIM_INFINITY || limit.rlim_max >= kEnough) return ok(name, found);
  return warning(name, fmt::format("{}: too few for 500 pods", found),
                 {fmt::format("sudo mkdir -p /etc/systemd/system/user@.service.d && printf '[Service]\\n{0}={1}\\n' | "
                              "sudo tee /etc/systemd/system/user@.service.d/{0}.conf && sudo systemctl daemon-reload, "
                              "then log in again",
                              setting, kRaised)});
}

}  // namespace

std::vector<Check> checkQuotas(const Scene& scene) {
  std::vector<Check> checks = {checkKeyring(scene), checkInstances(scene)};
  for (const auto& quota : kQuotas) checks.push_back(checkQuota(quota));
  for (auto& check : checkNamespaces(scene)) checks.push_back(std::move(check));
  checks.push_back(checkTasks(scene));
  checks.push_back(checkLimit("open-files", RLIMIT_NOFILE, "LimitNOFILE"));
  checks.push_back(checkLimit("processes", RLIMIT_NPROC, "LimitNPROC"));
  return checks;
}

}  // namespace userpod::diagnose

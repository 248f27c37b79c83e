// The parts of diagnoseHost(): what a check is given, helpers that several use, and the groups of checks.
#pragma once

#include <sys/types.h>

#include <array>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "userns/diagnose.hpp"

namespace userpod::diagnose {

// Where and for whom the checks run.
struct Scene {
  const Paths& paths;
  const Settings& settings;
  bool inNode = false;  // in the node's user namespace: the host's set-up is only partly to be seen
  uid_t hostUid = 0;    // the user, as the host numbers him
  std::string user;     // his name; the number where he has none
};

Scene sceneOf(const Paths& paths, const Settings& settings);

Check ok(std::string name, std::string message);
Check info(std::string name, std::string message, std::vector<std::string> hints);
Check warning(std::string name, std::string message, std::vector<std::string> hints);
Check error(std::string name, std::string message, std::vector<std::string> hints);
Check notFromNode(std::string name);

// Content of a kernel file, trimmed; nullopt when there is none.
std::optional<std::string> kernelText(const std::string& path);
std::optional<long long> kernelNumber(const std::string& path);

using Version = std::array<int, 3>;
// The first "N.N[.N]" or, of systemd, bare "N" in what a program prints as its version.
std::optional<Version> findVersion(std::string_view text);
std::string versionText(const Version& version);

// The nearest directory that exists at or above a path.
std::string existingDirectory(std::string path);

// What a process of its own met that made a user namespace and tried something there.
struct Probe {
  enum class Step { Done, Fork, UserNamespace, IdMap, Mount, Write };
  Step step = Step::Done;
  int sysErrno = 0;
};
// A user and mount namespace with the own id mapped, and a mount in it: AppArmor lets the first pass and not the
// second.
Probe probeUserNamespace();
// A native overlay as container root file systems have it, on the file system of `directory`, and a write through it.
Probe probeOverlay(const std::string& directory);

// Groups of checks, each in a file of its own.
std::vector<Check> checkIdentity(const Scene& scene);  // ids, their helpers, user namespaces
std::vector<Check> checkCgroups(const Scene& scene);   // cgroup v2, controllers
std::vector<Check> checkSession(const Scene& scene);   // user manager, bus, linger
std::vector<Check> checkQuotas(const Scene& scene);    // what one user may have in all
std::vector<Check> checkStorage(const Scene& scene);   // overlay, data directory, devices
std::vector<Check> checkPrograms(const Scene& scene);  // helpers with their versions, kernel, systemd

}  // namespace userpod::diagnose

// The list of what the host must give a rootless runtime, checked one by one: doctor, verbose CRI Status and the bus.
#pragma once

#include <string>
#include <vector>

#include "policy/settings.hpp"

namespace userpod {

struct Check {
  enum class Severity { Ok, Info, Warning, Error };
  std::string name;  // "subordinate-ids", "cgroup-controller-memory": stable, for scripts
  Severity severity = Severity::Ok;
  std::string message;             // what is found, what is wrong
  std::vector<std::string> hints;  // the command or setting that mends it
};
const char* severityName(Check::Severity severity);  // "ok", "info", "warning", "error": stable, for scripts

// Needs neither daemon nor bus nor node. Works in the host's namespaces (userpodctl doctor) and, for what can be seen
// there, inside the node (the daemon). Blocks for some 100 ms: it starts programs for their versions.
std::vector<Check> diagnoseHost(const Paths& paths, const Settings& settings);

}  // namespace userpod

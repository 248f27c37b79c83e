// What `userpodctl check` finds: a difference between what the daemon knows and what is there.
#pragma once

#include <string>
#include <vector>

namespace userpod {

struct Finding {
  enum class Severity { Info, Warning, Error };  // Info: worth knowing, nothing to be done about it
  std::string code;                              // "layer-missing": stable, for scripts
  Severity severity = Severity::Warning;
  std::string kind;  // of what it is about: "pod", "container", "record", "image", "layer", "database", "cgroup",
                     // "mount", "file", "link", "port", "network"
  std::string id;    // of that: an id, a digest, an absolute path (of a cgroup below the node's), a name
  std::string text;  // what is wrong, for people
  std::string mend;  // what to do about it where --repair does not
  bool repairable = false;  // --repair does it
  bool repaired = false;
  std::string failure;  // why the repair failed

  bool operator==(const Finding&) const = default;
  bool sameThing(const Finding& other) const { return code == other.code && kind == other.kind && id == other.id; }
};
using Findings = std::vector<Finding>;

inline const char* severityName(Finding::Severity severity) {
  constexpr const char* kNames[] = {"info", "warning", "error"};
  return kNames[static_cast<int>(severity)];
}

}  // namespace userpod

// Hook files: which containers get which hooks, by version 1.0.0 of oci-hooks(5), as CRI-O and Podman read it. Patterns
// are RE2's, as theirs are, and match anywhere in a text. Any thread.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "daemon/oci/hooks.hpp"
#include "daemon/store/model.hpp"
#include "daemon/sys/error.hpp"

namespace re2 {
class RE2;
}

namespace userpod::oci {

using Pattern = std::shared_ptr<const re2::RE2>;

struct HookFile {
  std::string path;
  Hook hook;
  std::vector<std::string> stages;  // of kHookStages
  std::optional<bool> always;
  std::optional<bool> hasBindMounts;
  std::vector<std::pair<Pattern, Pattern>> annotations;  // of keys and values
  std::vector<Pattern> commands;
};

// What of a container decides.
struct HookSubject {
  StringMap annotations;
  std::string command;  // first word
  bool bindMounts = false;
};

// InvalidArgument says what is wrong, and where.
Result<HookFile> parseHookFile(std::string_view text);
// Whether all conditions hold, of which there must be one.
bool matches(const HookFile& file, const HookSubject& subject);
// Of all directories, in the order of the files' names. A file hides those of its name in earlier directories.
// ConfigInvalid names a directory or file and what is wrong with it.
Result<std::vector<HookFile>> readHookFiles(const std::vector<std::string>& directories);

}  // namespace userpod::oci

// The hooks of the directories that userpod.toml names.
#include <algorithm>

#include "daemon/oci/hook_files.hpp"
#include "daemon/oci/spec.hpp"

namespace userpod::oci {

Status addHooks(SpecParts& parts) {
  const SpecInput& input = parts.input;
  if (input.hooksDirs.empty()) return {};
  USERPOD_TRY(files, readHookFiles(input.hooksDirs));
  const auto& config = input.container.config;
  HookSubject subject{input.pod.config.annotations, parts.built.args.front(), false};
  subject.annotations.insert(config.annotations.begin(), config.annotations.end());
  subject.bindMounts = std::any_of(config.mounts.begin(), config.mounts.end(),
                                   [](const MountConfig& mount) { return !mount.hostPath.empty(); });
  for (const auto& file : files) {
    if (!matches(file, subject)) continue;
    for (const auto& stage : file.stages) {
      if (auto fine = checkHook(stage, file.hook); !fine)
        return std::move(fine).error().wrap("hook file " + file.path).as(Code::ConfigInvalid);
      addHook(parts.spec, stage, file.hook);
    }
  }
  return {};
}

}  // namespace userpod::oci

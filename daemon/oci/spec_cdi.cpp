// What CDI devices bring with them.
#include <fmt/core.h>
#include <unistd.h>

#include <algorithm>

#include "daemon/oci/cdi.hpp"
#include "daemon/oci/mount_source.hpp"
#include "daemon/oci/spec.hpp"
#include "daemon/sys/util.hpp"

namespace userpod::oci {
namespace {

void setVariable(Json& environment, const std::string& entry) {
  std::string begin = entry.substr(0, entry.find('=') + 1);
  for (auto& known : environment)
    if (known.get_ref<const std::string&>().starts_with(begin)) {
      known = entry;
      return;
    }
  environment.push_back(entry);
}

Status addCdiMount(SpecParts& parts, const CdiMount& wanted) {
  std::string target = cleanPath(wanted.containerPath);
  if (target == "/") return Error(Code::InvalidArgument, "a mount of it has the containerPath /");
  auto has = [&](const char* option) {
    return std::find(wanted.options.begin(), wanted.options.end(), option) != wanted.options.end();
  };
  Json entry = {
      {"destination", target}, {"type", wanted.type}, {"source", wanted.hostPath}, {"options", wanted.options}};
  bool bound = has("bind") || has("rbind");
  if (bound || wanted.type.empty() || wanted.type == "bind" || wanted.type == "rbind") {
    // Not made, as that of a request: an empty directory in place of a library helps nobody.
    if (::access(wanted.hostPath.c_str(), F_OK) < 0)
      return sysError("its mount of " + excerpt(wanted.hostPath, 256)).as(Code::InvalidArgument);
    USERPOD_TRY(source, resolveSource(wanted.hostPath));
    USERPOD_CHECK(checkSource(parts.input, "its mount of " + wanted.hostPath, source));
    entry["type"] = "bind";
    entry["source"] = source;
    if (!bound) entry["options"].push_back("rbind");
  }
  auto& mounts = parts.spec["mounts"];
  auto& list = mounts.get_ref<Json::array_t&>();
  std::erase_if(list, [&](const Json& known) { return known["destination"] == target; });
  list.push_back(std::move(entry));
  return {};
}

Status addGroup(SpecParts& parts, std::uint32_t gid) {
  auto& groups = parts.built.user.groups;
  if (gid == parts.built.user.gid || std::find(groups.begin(), groups.end(), gid) != groups.end()) return {};
  USERPOD_CHECK(checkGroupMapped(gid));
  groups.push_back(gid);
  parts.spec["process"]["user"]["additionalGids"] = groups;
  return {};
}

Status addEdits(SpecParts& parts, const CdiEdits& edits) {
  for (const auto& entry : edits.environment) setVariable(parts.spec["process"]["env"], entry);
  for (const auto& node : edits.nodes) USERPOD_CHECK(addDevice(parts, node));
  for (const auto& mount : edits.mounts) USERPOD_CHECK(addCdiMount(parts, mount));
  for (const auto& [stage, hook] : edits.hooks) {
    USERPOD_CHECK(checkHook(stage, hook));
    addHook(parts.spec, stage, hook);
  }
  for (auto gid : edits.groups) USERPOD_CHECK(addGroup(parts, gid));
  return {};
}

}  // namespace

Status addCdiDevices(SpecParts& parts) {
  const auto& config = parts.input.container.config;
  const auto annotated = annotatedCdiDevices(config.annotations);
  std::vector<std::string> names;
  for (const auto* list : {&config.cdiDevices, &annotated})
    for (const auto& name : *list)
      if (std::find(names.begin(), names.end(), name) == names.end()) names.push_back(name);
  if (names.empty()) return {};
  USERPOD_TRY(devices, findCdiDevices(parts.input.cdiSpecDirs, names));
  std::vector<const CdiSpec*> done;
  for (const auto& device : devices.found) {
    const CdiSpec& spec = *device.spec;
    Status added;
    // What a specification says for all its devices comes once.
    if (std::find(done.begin(), done.end(), &spec) == done.end()) added = addEdits(parts, spec.edits);
    done.push_back(&spec);
    if (added) added = addEdits(parts, *device.edits);
    if (!added) return std::move(added).error().wrap(fmt::format("CDI device {} (of {})", device.name, spec.file));
  }
  sortMounts(parts.spec["mounts"]);
  parts.input.warnings.insert(parts.input.warnings.end(), devices.warnings.begin(), devices.warnings.end());
  return {};
}

}  // namespace userpod::oci

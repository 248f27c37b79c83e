// CDI specifications, in YAML and JSON, and hook files: what is read can be put into a spec.
#include "daemon/oci/cdi.hpp"
#include "daemon/oci/hook_files.hpp"
#include "daemon/sys/util.hpp"
#include "tests/fuzz/fuzz.hpp"

using namespace userpod;
using namespace userpod::oci;
using fuzz::require;

namespace {

void checkText(const std::string& text) {
  require(isUtf8(text) && text.find('\0') == std::string::npos, "a text is UTF-8 without NUL");
}

void checkHook(const Hook& hook) {
  require(hook.path.starts_with("/"), "a hook's path is absolute");
  require(hook.timeout >= 0, "a hook's time is not negative");
  for (const auto* list : {&hook.args, &hook.environment})
    for (const auto& text : *list) checkText(text);
}

void checkEdits(const CdiEdits& edits) {
  for (const auto& entry : edits.environment) {
    checkText(entry);
    require(entry.find('=') != std::string::npos && entry.front() != '=', "a variable has a name");
  }
  for (const auto& node : edits.nodes) {
    require(node.hostPath.starts_with("/") && node.containerPath.starts_with("/"), "a device's paths are absolute");
    require(node.permissions.find_first_not_of("rwm") == std::string::npos, "permissions are r, w and m");
  }
  for (const auto& mount : edits.mounts) {
    require(mount.containerPath.starts_with("/") && !mount.hostPath.empty(), "a mount has its paths");
    for (const auto& option : mount.options) checkText(option);
  }
  for (const auto& [stage, hook] : edits.hooks) checkHook(hook);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  auto text = fuzz::text(data, size);
  for (bool yaml : {false, true}) {
    auto spec = parseCdi(text, yaml);
    if (!spec) {
      require(isUtf8(spec.error().text()), "an error is UTF-8");
      continue;
    }
    checkEdits(spec->edits);
    for (const auto& [name, edits] : spec->devices) {
      require(!name.empty() && name.find_first_of(" ,=/") == std::string::npos, "a device's name can be asked for");
      checkEdits(edits);
    }
  }
  auto file = parseHookFile(text);
  if (!file) {
    require(isUtf8(file.error().text()), "an error is UTF-8");
    return 0;
  }
  checkHook(file->hook);
  require(!file->stages.empty(), "a hook has stages");
  static_cast<void>(matches(*file, {{{"key", "value"}, {"org.example.a", "b"}}, "/bin/sh", true}));
  return 0;
}

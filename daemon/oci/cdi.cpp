#include "daemon/oci/cdi.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <map>

#include "daemon/sys/util.hpp"

namespace userpod::oci {
namespace {

constexpr std::array<std::string_view, 8> kVersions = {"0.3.0", "0.4.0", "0.5.0", "0.6.0",
                                                       "0.7.0", "0.8.0", "1.0.0", "1.1.0"};
constexpr std::size_t kCdiFiles = 1000;  // in all directories

bool isLetter(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
}
bool isAlnum(char c) {
  return isLetter(c) || (c >= '0' && c <= '9');
}
// A letter or digit at both ends, and between them also those signs.
bool isName(std::string_view name, std::string_view signs, bool letterFirst) {
  if (name.empty() || name.size() > 255 || !isAlnum(name.front()) || !isAlnum(name.back())) return false;
  if (letterFirst && !isLetter(name.front())) return false;
  return std::all_of(name.begin(), name.end(),
                     [&](char c) { return isAlnum(c) || signs.find(c) != std::string_view::npos; });
}
bool isKind(std::string_view kind) {
  auto slash = kind.find('/');
  return slash != std::string_view::npos && isName(kind.substr(0, slash), "_-.", true) &&
         isName(kind.substr(slash + 1), "_-.", true);
}
bool isDevice(std::string_view name) {
  return isName(name, "_-.:", false);
}

class Reader {
 public:
  Result<CdiSpec> read(const Json& document);

 private:
  CdiEdits edits(const Json& object, const std::string& place, Fields& parent);
  DeviceConfig node(const Json& object, const std::string& place, Fields& parent);
  CdiMount mount(const Json& object, const std::string& place, Fields& parent);
  void needs(Fields& fields, const char* key, std::string_view version, bool used) const;

  std::size_t version_ = 0;  // in kVersions
};

// Readers go by the declared version: what came later would be lost on an older one, in silence.
void Reader::needs(Fields& fields, const char* key, std::string_view version, bool used) const {
  if (used && kVersions[version_] < version)
    fields.wrong(key, fmt::format("needs cdiVersion {}, and the file says {}", version, kVersions[version_]));
}

DeviceConfig Reader::node(const Json& object, const std::string& place, Fields& parent) {
  Fields fields(object, place);
  DeviceConfig result{fields.text("path", true), fields.text("hostPath"), fields.text("permissions")};
  needs(fields, "hostPath", "0.5.0", !result.hostPath.empty());
  if (result.hostPath.empty()) result.hostPath = result.containerPath;
  if (!result.containerPath.starts_with("/") || !result.hostPath.starts_with("/"))
    fields.wrong("path", "is not absolute; begin it with /");
  if (result.permissions == "none") result.permissions = "m";
  if (result.permissions.find_first_not_of("rwm") != std::string::npos)
    fields.wrong("permissions", "may only have r, w and m");
  // Of a node that is made; a bound one stays what it is.
  for (const char* key : {"type", "major", "minor", "fileMode", "uid", "gid"}) fields.ignore(key);
  parent.take(fields.done());
  return result;
}

CdiMount Reader::mount(const Json& object, const std::string& place, Fields& parent) {
  Fields fields(object, place);
  CdiMount result{fields.text("hostPath", true), fields.text("containerPath", true), fields.text("type"),
                  fields.texts("options")};
  needs(fields, "type", "0.4.0", !result.type.empty());
  if (!result.containerPath.starts_with("/")) fields.wrong("containerPath", "is not absolute; begin it with /");
  parent.take(fields.done());
  return result;
}

CdiEdits Reader::edits(const Json& object, const std::string& place, Fields& parent) {
  CdiEdits result;
  if (object.is_null()) return result;
  Fields fields(object, place);
  auto each = [&](const char* key, const auto& take) {
    std::size_t number = 0;
    for (const auto& item : fields.list(key)) take(item, fmt::format("{}[{}]", fields.placeOf(key), number++));
  };
  result.environment = fields.texts("env");
  for (const auto& entry : result.environment)
    if (entry.find('=') == std::string::npos || entry.front() == '=') fields.wrong("env", "has what is not NAME=value");
  each("deviceNodes", [&](const Json& item, const std::string& at) { result.nodes.push_back(node(item, at, fields)); });
  each("mounts", [&](const Json& item, const std::string& at) { result.mounts.push_back(mount(item, at, fields)); });
  each("hooks", [&](const Json& item, const std::string& at) {
    Fields hook(item, at);
    std::string stage = hook.text("hookName", true);
    if (std::find(kHookStages.begin(), kHookStages.end(), stage) == kHookStages.end())
      hook.wrong("hookName", fmt::format("is none of {}", fmt::join(kHookStages, ", ")));
    result.hooks.emplace_back(stage, readHook(hook));
    fields.take(hook.done());
  });
  needs(fields, "additionalGids", "0.7.0", fields.has("additionalGids"));
  for (const auto& item : fields.list("additionalGids")) {
    Json wrapped = {{"gid", item}};
    auto gid = Fields(wrapped, "").number("gid");
    if (!gid || *gid < 0 || *gid >= UINT32_MAX)
      fields.wrong("additionalGids", "has what is no number of a group");
    else if (*gid != 0)
      result.groups.push_back(static_cast<std::uint32_t>(*gid));
  }
  for (const char* key : {"intelRdt", "netDevices"}) {
    if (fields.has(key))
      fields.take(
          Error(Code::NotSupported, fmt::format("{} needs root on the machine; take it out", fields.placeOf(key))));
    fields.ignore(key);
  }
  parent.take(fields.done());
  return result;
}

Result<CdiSpec> Reader::read(const Json& document) {
  Fields fields(document, "");
  CdiSpec spec;
  std::string version = fields.text("cdiVersion", true);
  auto known = std::find(kVersions.begin(), kVersions.end(), version);
  if (!version.empty() && known == kVersions.end())
    fields.wrong("cdiVersion", fmt::format("is none of {}", fmt::join(kVersions, ", ")));
  if (known != kVersions.end()) version_ = static_cast<std::size_t>(known - kVersions.begin());
  spec.kind = fields.text("kind", true);
  if (!isKind(spec.kind)) fields.wrong("kind", "is not VENDOR/CLASS, as in vendor.example/device");
  needs(fields, "kind", "0.6.0", spec.kind.find('.', spec.kind.find('/')) != std::string::npos);
  needs(fields, "annotations", "0.6.0", fields.has("annotations"));
  fields.ignore("annotations");
  spec.edits = edits(fields.member("containerEdits"), "containerEdits", fields);
  std::size_t number = 0;
  for (const auto& item : fields.list("devices")) {
    Fields device(item, fmt::format("devices[{}]", number++));
    std::string name = device.text("name", true);
    if (!isDevice(name)) device.wrong("name", "may only have letters, digits and _-.: with no sign at an end");
    needs(device, "name", "0.5.0", !name.empty() && !isLetter(name.front()));
    needs(device, "annotations", "0.6.0", device.has("annotations"));
    device.ignore("annotations");
    auto own = edits(device.member("containerEdits"), device.placeOf("containerEdits"), device);
    if (std::any_of(spec.devices.begin(), spec.devices.end(), [&](const auto& other) { return other.first == name; }))
      device.wrong("name", "is there twice");
    spec.devices.emplace_back(name, std::move(own));
    fields.take(device.done());
  }
  USERPOD_CHECK(fields.done());
  return spec;
}

struct Loaded {
  std::vector<std::vector<std::shared_ptr<const CdiSpec>>> directories;  // by weight
  std::vector<std::string> broken;                                       // files and why
};

Result<Loaded> load(const std::vector<std::string>& configured) {
  Loaded loaded;
  std::size_t files = 0;
  for (const auto& entry : configured)
    for (const auto& directory : documentDirectories(entry)) {
      auto& specs = loaded.directories.emplace_back();
      for (const auto& file : documentsIn(directory, {".json", ".yaml"})) {
        if (++files > kCdiFiles)
          return Error(Code::LimitsExceeded, fmt::format("there are more than {} CDI files; remove some", kCdiFiles));
        auto text = readDocument(file);
        auto spec = text ? parseCdi(*text, file.ends_with(".yaml")) : Result<CdiSpec>(std::move(text).error());
        if (!spec) {
          bool named = spec.error().text().find(file) != std::string::npos;
          loaded.broken.push_back(named ? spec.error().text() : file + ": " + spec.error().text());
          continue;
        }
        spec->file = file;
        specs.push_back(std::make_shared<const CdiSpec>(std::move(*spec)));
      }
    }
  return loaded;
}

Result<CdiDevice> findDevice(const Loaded& loaded, const std::string& name,
                             const std::vector<std::string>& configured) {
  auto equals = name.find('=');
  std::string kind = name.substr(0, equals);
  std::string device = equals == std::string::npos ? "" : name.substr(equals + 1);
  auto failed = [&](const std::string& why) {
    return Error(Code::InvalidArgument, fmt::format("CDI device {}: {}", excerpt(name, 256), why));
  };
  if (!isKind(kind) || !isDevice(device)) return failed("the name is not VENDOR/CLASS=DEVICE");
  for (auto specs = loaded.directories.rbegin(); specs != loaded.directories.rend(); ++specs) {
    CdiDevice found{name, nullptr, nullptr};
    for (const auto& spec : *specs) {
      if (spec->kind != kind) continue;
      for (const auto& [own, edits] : spec->devices) {
        if (own != device) continue;
        if (found.spec)
          return failed(fmt::format("both {} and {} have it; take it out of one", found.spec->file, spec->file));
        found.spec = spec;
        found.edits = &edits;
      }
    }
    if (found.spec) return found;
  }
  std::string why = fmt::format("no specification in {} has it", fmt::join(configured, ", "));
  for (const auto& broken : loaded.broken) why += "; not read: " + broken;
  return failed(why);
}

}  // namespace

Result<CdiSpec> parseCdi(std::string_view text, bool yaml) {
  USERPOD_TRY(document, parseDocument(text, yaml));
  return Reader().read(document);
}

Result<CdiDevices> findCdiDevices(const std::vector<std::string>& directories, const std::vector<std::string>& names) {
  CdiDevices devices;
  USERPOD_TRY(loaded, load(directories));
  for (const auto& name : names) {
    USERPOD_TRY(device, findDevice(loaded, name, directories));
    devices.found.push_back(std::move(device));
  }
  for (const auto& broken : loaded.broken) devices.warnings.push_back("CDI specification not read: " + broken);
  return devices;
}

std::vector<std::string> annotatedCdiDevices(const StringMap& annotations) {
  std::vector<std::string> names;
  for (const auto& [key, value] : annotations)
    if (key.starts_with("cdi.k8s.io/"))
      for (const auto& name : split(value, ',')) names.emplace_back(trim(name));
  return names;
}

}  // namespace userpod::oci

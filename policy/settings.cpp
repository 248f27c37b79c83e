#include "policy/settings.hpp"

#include <fmt/core.h>
#include <toml++/toml.h>
#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <cstdlib>
#include <filesystem>
#include <functional>

#include "daemon/sys/fd.hpp"

namespace userpod {
namespace {

std::string environmentOr(const char* name, const std::string& fallback) {
  const char* value = std::getenv(name);
  return value != nullptr && value[0] == '/' ? std::string(value) : fallback;
}

Error badKey(const std::string& file, const toml::node& node, std::string_view key, std::string_view want) {
  return {Code::ConfigInvalid, fmt::format("{}:{}: {} {}", file, node.source().begin.line, key, want)};
}

using Reader = std::function<Status(const std::string& file, const toml::node& node, Settings& settings)>;

Reader text(std::string Settings::* field) {
  return [field](const std::string& file, const toml::node& node, Settings& settings) -> Status {
    auto value = node.value<std::string>();
    if (!node.is_string() || !value) return badKey(file, node, "value", "must be a string");
    settings.*field = *value;
    return {};
  };
}

Reader choice(std::string Settings::* field, std::vector<std::string> allowed) {
  return [field, allowed = std::move(allowed)](const std::string& file, const toml::node& node,
                                               Settings& settings) -> Status {
    USERPOD_CHECK(text(field)(file, node, settings));
    if (std::find(allowed.begin(), allowed.end(), settings.*field) != allowed.end()) return {};
    std::string list;
    for (const auto& word : allowed) list += (list.empty() ? "" : ", ") + word;
    return badKey(file, node, settings.*field, "is not one of " + list);
  };
}

Reader texts(std::vector<std::string> Settings::* field) {
  return [field](const std::string& file, const toml::node& node, Settings& settings) -> Status {
    const auto* array = node.as_array();
    if (array == nullptr) return badKey(file, node, "value", "must be an array of strings");
    (settings.*field).clear();
    for (const auto& item : *array) {
      auto value = item.value<std::string>();
      if (!item.is_string() || !value) return badKey(file, item, "value", "must be a string");
      (settings.*field).push_back(*value);
    }
    return {};
  };
}

Reader flag(bool Settings::* field) {
  return [field](const std::string& file, const toml::node& node, Settings& settings) -> Status {
    if (!node.is_boolean()) return badKey(file, node, "value", "must be true or false");
    settings.*field = *node.value<bool>();
    return {};
  };
}

Reader directories(std::vector<std::string> Settings::* field) {
  return [field](const std::string& file, const toml::node& node, Settings& settings) -> Status {
    USERPOD_CHECK(texts(field)(file, node, settings));
    for (const auto& path : settings.*field)
      if (!path.starts_with("/")) return badKey(file, node, "\"" + path + "\"", "is not an absolute path");
    return {};
  };
}

Reader limit(std::int64_t Settings::* field) {
  return [field](const std::string& file, const toml::node& node, Settings& settings) -> Status {
    auto value = node.value<std::int64_t>();
    if (!node.is_integer() || !value || *value < 0) return badKey(file, node, "value", "must be an integer from 0 up");
    settings.*field = *value;
    return {};
  };
}

Status readFileLimit(const std::string& file, const toml::node& node, Settings& settings) {
  auto text = node.value<std::string>().value_or("");
  FileLimit limit;
  auto colon = text.find(':');
  auto number = [](std::string_view digits, std::uint64_t& value) {
    auto parsed = std::from_chars(digits.data(), digits.data() + digits.size(), value);
    return parsed.ec == std::errc() && parsed.ptr == digits.data() + digits.size() && value > 0;
  };
  std::string_view whole = text;
  bool good = node.is_string() && colon != std::string::npos && number(whole.substr(0, colon), limit.soft) &&
              number(whole.substr(colon + 1), limit.hard) && limit.soft <= limit.hard;
  if (!good)
    return badKey(file, node, "value", "must be \"SOFT:HARD\", two numbers of which the second is not the smaller");
  settings.nofile = limit;
  settings.nofileSet = true;
  return {};
}

Status readRuntimes(const std::string& file, const toml::node& node, Settings& settings) {
  const auto* table = node.as_table();
  if (table == nullptr) return badKey(file, node, "runtimes", "must be a table of tables with a path");
  for (const auto& [key, item] : *table) {
    const auto* runtime = item.as_table();
    if (runtime == nullptr) return badKey(file, item, key.str(), "must be a table with a path");
    RuntimeHandler handler;
    for (const auto& [name, value] : *runtime) {
      auto path = value.value<std::string>();
      if (name.str() != "path" || !value.is_string() || !path)
        return badKey(file, value, name.str(), "is unknown here; a runtime has one key, path, a string");
      handler.path = *path;
    }
    settings.runtimes[std::string(key.str())] = handler;
  }
  return {};
}

// Keys that userpod had of its own before it read the containers ecosystem's files.
bool isOfRegistries(std::string_view key) {
  return key == "insecure-registries" || key == "registry-mirrors" || key == "unqualified-search-registries";
}

const std::map<std::string, Reader, std::less<>>& readers() {
  static const std::map<std::string, Reader, std::less<>> table = {
      {"log-level", choice(&Settings::logLevel, {"error", "warning", "notice", "info", "debug"})},
      {"uplink", choice(&Settings::uplink, {"auto", "pasta", "slirp4netns", "none"})},
      {"pasta", text(&Settings::pasta)},
      {"slirp4netns", text(&Settings::slirp4netns)},
      {"host-loopback", flag(&Settings::hostLoopback)},
      {"network", choice(&Settings::network, {"bridge", "cni"})},
      {"subnet", text(&Settings::subnet)},
      {"subnet6", text(&Settings::subnet6)},
      {"address-reuse-delay", limit(&Settings::addressReuseDelay)},
      {"cni-config-dirs", directories(&Settings::cniConfigDirs)},
      {"cni-plugin-dirs", directories(&Settings::cniPluginDirs)},
      {"cni-network", text(&Settings::cniNetwork)},
      {"cni-timeout", limit(&Settings::cniTimeout)},
      {"privileged-port-offset", limit(&Settings::privilegedPortOffset)},
      {"storage-driver", choice(&Settings::storageDriver, {"auto", "overlay", "fuse-overlayfs", "copy"})},
      {"default-runtime", text(&Settings::defaultRuntime)},
      {"runtimes", readRuntimes},
      {"conmon", text(&Settings::conmon)},
      {"image-size-limit", limit(&Settings::imageSizeLimit)},
      {"image-entries-limit", limit(&Settings::imageEntriesLimit)},
      {"image-ratio-limit", limit(&Settings::imageRatioLimit)},
      {"pinned-images", texts(&Settings::pinnedImages)},
      {"ignore-chown-errors", flag(&Settings::ignoreChownErrors)},
      {"pull-stall-timeout", limit(&Settings::pullStallTimeout)},
      {"nofile", readFileLimit},
      {"allow-runtime-directory-mounts", flag(&Settings::allowRuntimeDirectoryMounts)},
      {"cdi-spec-dirs", directories(&Settings::cdiSpecDirs)},
      {"hooks-dir", directories(&Settings::hooksDirs)},
      {"pids-limit", limit(&Settings::pidsLimit)},
  };
  return table;
}

Status readSettings(const std::string& file, Settings& settings) {
  if (!pathExists(file)) return {};
  USERPOD_TRY(content, readFile(file));
  toml::table table;
  try {
    table = toml::parse(content, file);
  } catch (const toml::parse_error& error) {
    return Error(Code::ConfigInvalid, fmt::format("{}:{}: {}", file, error.source().begin.line, error.description()));
  }
  for (const auto& [key, node] : table) {
    auto reader = readers().find(key.str());
    if (reader == readers().end() && isOfRegistries(key.str()))
      return badKey(file, node, key.str(), "is said in registries.conf: see REGISTRIES in userpod.toml(5)");
    if (reader == readers().end()) return badKey(file, node, key.str(), "is not a known key; see userpod.toml(5)");
    if (auto status = reader->second(file, node, settings); !status) {
      return std::move(status).error().wrap(std::string(key.str()));
    }
  }
  return {};
}

}  // namespace

Result<Paths> userPaths() {
  Paths paths;
  std::string runtime = environmentOr("XDG_RUNTIME_DIR", "");
  if (runtime.empty())
    return Error(
        Code::NotReady,
        "XDG_RUNTIME_DIR is not set: start from a login session, or enable one at boot with `loginctl enable-linger`");
  std::string home = environmentOr("HOME", "/");
  paths.runtime = runtime + "/userpod";
  paths.data = environmentOr("XDG_DATA_HOME", home + "/.local/share") + "/userpod";
  paths.config = environmentOr("XDG_CONFIG_HOME", home + "/.config") + "/userpod";
  paths.node = "/run/userpod";
  return paths;
}

Result<Settings> loadSettings(const Paths& paths) {
  Settings settings;
  settings.runtimes["crun"] = {};
  settings.cdiSpecDirs.push_back(paths.config + "/cdi");
  USERPOD_CHECK(readSettings("/etc/userpod/userpod.toml", settings));
  USERPOD_CHECK(readSettings(paths.config + "/userpod.toml", settings));
  std::vector<std::string> dropIns;
  std::error_code ignored;
  for (const auto& entry : std::filesystem::directory_iterator(paths.config + "/userpod.toml.d", ignored))
    if (entry.path().extension() == ".toml") dropIns.push_back(entry.path());
  std::sort(dropIns.begin(), dropIns.end());
  for (const auto& file : dropIns) USERPOD_CHECK(readSettings(file, settings));
  if (!settings.runtimes.contains(settings.defaultRuntime))
    return Error(Code::ConfigInvalid, "default-runtime " + settings.defaultRuntime + " has no table in [runtimes]");
  return settings;
}

}  // namespace userpod

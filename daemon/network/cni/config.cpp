#include "daemon/network/cni/config.hpp"

#include <fcntl.h>
#include <fmt/core.h>
#include <sys/stat.h>

#include <algorithm>
#include <filesystem>

#include "daemon/sys/fd.hpp"
#include "daemon/sys/util.hpp"

namespace userpod::network::cni {
namespace {

constexpr std::size_t kPluginsInChain = 64;
constexpr std::size_t kNameLength = 150;  // the cache's file name has it beside the pod's id, below 255 bytes
constexpr std::size_t kConfigFiles = 1000;

std::string knownVersions() {
  std::string list;
  for (auto version : kVersions) list += (list.empty() ? "" : ", ") + std::string(version);
  return list;
}

std::size_t versionIndex(std::string_view version) {
  return static_cast<std::size_t>(std::find(kVersions.begin(), kVersions.end(), version) - kVersions.begin());
}

Result<std::string> requiredText(const Json& object, const char* key, const std::string& place) {
  USERPOD_TRY(text, textOf(object, key, place));
  if (text.empty()) return wrongKey(place, key, "is missing");
  return std::move(text);
}

// A regular file: nothing that would block.
Result<std::string> readConfigFile(const std::string& path) {
  USERPOD_TRY(file, openFile(path, O_RDONLY | O_NONBLOCK));
  struct stat info{};
  if (::fstat(file.get(), &info) < 0) return sysError("stat " + path);
  if (!S_ISREG(info.st_mode)) return Error(Code::ConfigInvalid, path + ": is not a regular file");
  auto text = readAll(file.get(), kForeignJson.bytes);
  if (!text) return std::move(text).error().wrap(path);
  return text;
}

std::vector<std::string> filesIn(const std::string& directory, const std::vector<std::string>& endings) {
  std::vector<std::string> files;
  for (const auto& name : namesIn(directory)) {
    bool fits = std::any_of(endings.begin(), endings.end(), [&](const auto& ending) { return name.ends_with(ending); });
    std::error_code ignored;
    if (fits && !std::filesystem::is_directory(directory + "/" + name, ignored)) files.push_back(name);
  }
  std::sort(files.begin(), files.end());
  if (files.size() > kConfigFiles) files.resize(kConfigFiles);
  for (auto& file : files) file.insert(0, directory + "/");
  return files;
}

// What a program of that name could be: found in a directory, never a path out of it.
Status checkType(const std::string& type, const std::string& place) {
  if (type.size() < 200 && isPlainName(type)) return {};
  return wrongKey(place, "type", "must be the name of a plugin's program: letters, digits, '_', '.' and '-'");
}

Result<PluginConfig> readPlugin(const Json& config, const std::string& place) {
  if (!config.is_object())
    return Error(Code::ConfigInvalid, fmt::format("\"{}\" must be an object", place.empty() ? "plugin" : place));
  PluginConfig plugin;
  USERPOD_TRY(type, requiredText(config, "type", place));
  USERPOD_CHECK(checkType(type, place));
  plugin.type = type;
  USERPOD_TRY(capabilities, containerOf(config, "capabilities", place, Json::value_t::object));
  for (const auto& item : capabilities->items())
    if (!item.value().is_boolean())
      return wrongKey(keyOf(place, "capabilities"), excerpt(item.key()), "must be true or false");
  USERPOD_TRY(ipam, containerOf(config, "ipam", place, Json::value_t::object));
  if (ipam->is_object()) {
    USERPOD_TRY(delegate, textOf(*ipam, "type", keyOf(place, "ipam")));
    if (!delegate.empty()) USERPOD_CHECK(checkType(delegate, keyOf(place, "ipam")));
    plugin.ipam = delegate;
  }
  plugin.config = config;
  return plugin;
}

Status readVersions(const Json& object, NetworkConfig& network) {
  USERPOD_TRY(version, textOf(object, "cniVersion", ""));
  USERPOD_TRY(more, textsOf(object, "cniVersions", ""));
  // Without any, plugins take the first one.
  std::string unknown;
  if (version.empty() && more.empty()) version = kVersions.front();
  if (!version.empty()) more.push_back(version);
  for (const auto& one : more) {
    if (!isKnownVersion(one))
      unknown = one;
    else if (std::find(network.versions.begin(), network.versions.end(), one) == network.versions.end())
      network.versions.push_back(one);
  }
  if (network.versions.empty())
    return wrongKey("", "cniVersion",
                    fmt::format("is \"{}\"; known are {}: write one of them", excerpt(unknown), knownVersions()));
  std::sort(network.versions.begin(), network.versions.end(),
            [](const auto& a, const auto& b) { return versionIndex(a) > versionIndex(b); });
  network.version = network.versions.front();
  return {};
}

Status readPlugins(const Json& object, NetworkConfig& network) {
  USERPOD_TRY(plugins, containerOf(object, "plugins", "", Json::value_t::array));
  if (plugins->size() > kPluginsInChain)
    return wrongKey("", "plugins", fmt::format("has more than {} entries", kPluginsInChain));
  for (std::size_t i = 0; i < plugins->size(); ++i) {
    USERPOD_TRY(plugin, readPlugin((*plugins)[i], fmt::format("plugins[{}]", i)));
    network.plugins.push_back(std::move(plugin));
  }
  return {};
}

struct ParsedNetwork {
  NetworkConfig network;
  bool inlinedOnly = false;
};

Result<ParsedNetwork> parseAny(std::string_view text, bool list, const JsonLimits& limits) {
  USERPOD_TRY(object, parseObject(text, limits));
  ParsedNetwork parsed;
  auto& network = parsed.network;
  USERPOD_TRY(name, requiredText(object, "name", ""));
  if (!isPlainName(name) || name.size() > kNameLength)
    return wrongKey("", "name", "must begin with a letter or digit and have only these, '_', '.' and '-'");
  network.name = name;
  USERPOD_CHECK(readVersions(object, network));
  if (!list) {
    USERPOD_TRY(plugin, readPlugin(object, ""));
    network.plugins.push_back(std::move(plugin));
    parsed.inlinedOnly = true;
    return parsed;
  }
  USERPOD_TRY(disableCheck, flagOf(object, "disableCheck", ""));
  USERPOD_TRY(disableGc, flagOf(object, "disableGC", ""));
  USERPOD_TRY(inlinedOnly, flagOf(object, "loadOnlyInlinedPlugins", ""));
  network.disableCheck = disableCheck;
  network.disableGc = disableGc;
  parsed.inlinedOnly = inlinedOnly;
  USERPOD_CHECK(readPlugins(object, network));
  return parsed;
}

Status readFolder(const std::string& folder, NetworkConfig& network) {
  for (const auto& file : filesIn(folder, {".conf"})) {
    USERPOD_TRY(text, readConfigFile(file));
    auto object = parseObject(text);
    if (!object) return std::move(object).error().wrap(file);
    auto plugin = readPlugin(*object, "");
    if (!plugin) return std::move(plugin).error().wrap(file);
    network.plugins.push_back(std::move(*plugin));
  }
  return {};
}

Result<NetworkConfig> readNetwork(const std::string& file) {
  USERPOD_TRY(text, readConfigFile(file));
  bool list = file.ends_with(".conflist");
  auto parsed = parseAny(text, list, kForeignJson);
  if (!parsed) return std::move(parsed).error().wrap(file);
  auto& network = parsed->network;
  network.file = file;
  std::string folder = std::filesystem::path(file).parent_path().string() + "/" + network.name;
  if (!parsed->inlinedOnly) USERPOD_CHECK(readFolder(folder, network));
  if (network.plugins.empty())
    return Error(Code::ConfigInvalid,
                 fmt::format("{}: \"plugins\" has no plugin{}", file,
                             parsed->inlinedOnly ? "" : fmt::format(", and {} no *.conf", folder)));
  if (network.plugins.size() > kPluginsInChain)
    return Error(Code::ConfigInvalid, fmt::format("{}: has more than {} plugins", file, kPluginsInChain));
  return std::move(network);
}

}  // namespace

bool isPlainName(std::string_view name) {
  auto alnum = [](char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9'); };
  return !name.empty() && alnum(name.front()) &&
         std::all_of(name.begin(), name.end(), [&](char c) { return alnum(c) || c == '_' || c == '.' || c == '-'; });
}

bool isKnownVersion(std::string_view version) {
  return versionIndex(version) < kVersions.size();
}

bool isAtLeast(std::string_view version, std::string_view least) {
  return versionIndex(version) >= versionIndex(least);
}

bool PluginConfig::takes(const std::string& capability) const {
  const auto& capabilities = memberOf(config, "capabilities");
  return capabilities.is_object() && memberOf(capabilities, capability.c_str()) == true;
}

Result<NetworkConfig> parseNetwork(std::string_view text, bool list, const JsonLimits& limits) {
  USERPOD_TRY(parsed, parseAny(text, list, limits));
  if (parsed.network.plugins.empty()) return wrongKey("", "plugins", "has no plugin");
  return std::move(parsed.network);
}

Json networkJson(const NetworkConfig& network) {
  Json plugins = Json::array();
  for (const auto& plugin : network.plugins) plugins.push_back(plugin.config);
  return {{"name", network.name},           {"cniVersion", network.version},  {"disableCheck", network.disableCheck},
          {"disableGC", network.disableGc}, {"loadOnlyInlinedPlugins", true}, {"plugins", std::move(plugins)}};
}

std::vector<NetworkConfig> readNetworks(const std::vector<std::string>& directories) {
  std::vector<NetworkConfig> networks;
  for (const auto& directory : directories) {
    for (const auto& file : filesIn(directory, {".conflist", ".conf", ".json"})) {
      auto network = readNetwork(file);
      if (network) {
        networks.push_back(std::move(*network));
      } else if (network.error().sysErrno() != ENOENT) {  // gone since it was listed
        networks.push_back({.file = file, .problem = network.error().text()});
      }
    }
  }
  return networks;
}

}  // namespace userpod::network::cni

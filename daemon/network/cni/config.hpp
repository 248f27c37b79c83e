// Network configurations: one file, one network, one chain of plugins. Any thread.
#pragma once

#include <array>
#include <string>
#include <string_view>
#include <vector>

#include "daemon/network/cni/json.hpp"

namespace userpod::network::cni {

// Of the specification, oldest first: those that this runtime speaks.
inline constexpr std::array<std::string_view, 7> kVersions = {"0.1.0", "0.2.0", "0.3.0", "0.3.1",
                                                              "0.4.0", "1.0.0", "1.1.0"};
bool isKnownVersion(std::string_view version);
// Both known.
bool isAtLeast(std::string_view version, std::string_view least);

struct PluginConfig {
  std::string type;  // the name of its program: a plain file name
  Json config;       // as in the file
  // Whether it asks for the capability's member of runtimeConfig.
  bool takes(const std::string& capability) const;
  std::string ipam;  // type of the plugin that it calls for addresses; may be empty
};

struct NetworkConfig {
  std::string name;
  std::string file;  // empty when read from the cache
  // What the file says, of those known, highest first. version is the one used: the first, unless a plugin is older.
  std::vector<std::string> versions;
  std::string version;
  bool disableCheck = false;
  bool disableGc = false;
  std::vector<PluginConfig> plugins;
  std::string problem;  // why it is of no use, with file and key; then nothing but the file need be set
};

// The text of a .conflist, or of a .conf or .json with a single plugin. ConfigInvalid names the key.
Result<NetworkConfig> parseNetwork(std::string_view text, bool list, const JsonLimits& limits = kForeignJson);
// Whole and for itself: one list in the version used, as parseNetwork reads it and libcni too.
Json networkJson(const NetworkConfig& network);

// Every network of the directories in order, and in each by name of the file. From version 1.1.0 on, plugins may also
// lie beside the file in a directory with the network's name, one .conf each. Broken files have a problem; directories
// that do not exist are left out.
std::vector<NetworkConfig> readNetworks(const std::vector<std::string>& directories);

// Name of a network, of a pod: what may be part of a file name and of an environment variable.
bool isPlainName(std::string_view name);

}  // namespace userpod::network::cni

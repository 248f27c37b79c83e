#include "daemon/images/registries/places.hpp"

#include <cstdlib>

#include "daemon/sys/util.hpp"

namespace userpod::images {

namespace {

// The XDG base directories and $HOME mean nothing unless absolute (XDG Base Directory Specification).
std::string absoluteVariable(const char* name) {
  const char* value = std::getenv(name);
  return value != nullptr && value[0] == '/' ? value : "";
}

// `below` of the directory that a variable names, or of the home directory.
std::string directoryOr(const char* name, const std::string& home, const char* below) {
  auto value = absoluteVariable(name);
  return !value.empty() || home.empty() ? value : home + below;
}

}  // namespace

Places userPlaces() {
  Places places;
  places.registriesConf = absoluteVariable("CONTAINERS_REGISTRIES_CONF");
  places.registriesOverride = absoluteVariable("CONTAINERS_REGISTRIES_CONF_OVERRIDE");
  places.home = absoluteVariable("HOME");
  places.config = directoryOr("XDG_CONFIG_HOME", places.home, "/.config");
  places.cache = directoryOr("XDG_CACHE_HOME", places.home, "/.cache");
  places.runtime = absoluteVariable("XDG_RUNTIME_DIR");
  places.authFile = absoluteVariable("REGISTRY_AUTH_FILE");
  places.dockerConfig = directoryOr("DOCKER_CONFIG", places.home, "/.docker");
  const char* path = std::getenv("PATH");
  for (const auto& part : split(path == nullptr ? "" : path, ':'))
    if (part.starts_with("/")) places.path.push_back(part);
  return places;
}

}  // namespace userpod::images

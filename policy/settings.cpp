#include "policy/settings.hpp"

#include <cstdlib>

#include "policy/configuration.hpp"

namespace userpod {
namespace {

std::string environmentOr(const char* name, const std::string& fallback) {
  const char* value = std::getenv(name);
  return value != nullptr && value[0] == '/' ? std::string(value) : fallback;
}

}  // namespace

std::string configDirectory() {
  return environmentOr("XDG_CONFIG_HOME", environmentOr("HOME", "/") + "/.config") + "/userpod";
}

Result<Paths> userPaths() {
  Paths paths;
  std::string runtime = environmentOr("XDG_RUNTIME_DIR", "");
  if (runtime.empty())
    return Error(
        Code::NotReady,
        "XDG_RUNTIME_DIR is not set: start from a login session, or enable one at boot with `loginctl enable-linger`");
  paths.runtime = runtime + "/userpod";
  paths.data = environmentOr("XDG_DATA_HOME", environmentOr("HOME", "/") + "/.local/share") + "/userpod";
  paths.config = configDirectory();
  paths.node = "/run/userpod";
  return paths;
}

Result<Settings> loadSettings(const Paths& paths) {
  Configuration configuration = readConfiguration(paths.config);
  USERPOD_CHECK(configuration.status());
  return std::move(configuration.settings);
}

}  // namespace userpod

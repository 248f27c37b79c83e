// doctor: the checks of userns/diagnose.hpp, userPaths() before them, which they cannot do without, and the files of
// users that the daemon reads.
#include <fmt/core.h>
#include <stdlib.h>
#include <unistd.h>

#include <algorithm>

#include "daemon/images/registries/registries.hpp"
#include "dbus/userpodctl/bus_client.hpp"
#include "dbus/userpodctl/commands.hpp"
#include "dbus/userpodctl/output.hpp"
#include "userns/diagnose.hpp"

namespace userpod::ctl {
namespace {

const char* color(Check::Severity severity) {
  switch (severity) {
    case Check::Severity::Ok:
      return "\033[32m";
    case Check::Severity::Info:
      return "\033[34m";
    case Check::Severity::Warning:
      return "\033[33m";
    default:
      return "\033[1;31m";
  }
}

// The paths, with the place that the runtime directory would have where the environment does not say.
Paths pathsOrUsual(std::vector<Check>& checks) {
  auto paths = userPaths();
  if (paths) {
    checks.push_back({"runtime-directory", Check::Severity::Ok, paths->runtime, {}});
    return *paths;
  }
  checks.push_back({"runtime-directory",
                    Check::Severity::Error,
                    paths.error().text(),
                    {fmt::format("export XDG_RUNTIME_DIR=/run/user/{}", ::getuid())}});
  ::setenv("XDG_RUNTIME_DIR", fmt::format("/run/user/{}", ::getuid()).c_str(), 1);
  return *userPaths();
}

Check registriesCheck() {
  const std::string name = "registries";
  const std::string manual = "see containers-registries.conf(5), and REGISTRIES in userpod.toml(5)";
  auto registries = images::loadRegistries(images::userPlaces());
  if (!registries) return {name, Check::Severity::Error, registries.error().text(), {"correct the file; " + manual}};
  auto warnings = (*registries)->warnings();
  if (warnings.empty()) return {name, Check::Severity::Ok, "registries.conf and its drop-ins are valid", {}};
  warnings.push_back(manual);
  return {name, Check::Severity::Warning, "registries.conf and its drop-ins have what userpod does not read", warnings};
}

std::vector<Check> allChecks() {
  std::vector<Check> checks;
  Paths paths = pathsOrUsual(checks);
  auto settings = loadSettings(paths);
  if (settings)
    checks.push_back({"settings", Check::Severity::Ok, "userpod.toml and its drop-ins are valid", {}});
  else
    checks.push_back({"settings",
                      Check::Severity::Error,
                      settings.error().text(),
                      {"`userpodd --check-config` tells all that is wrong; see userpod.toml(5)"}});
  checks.push_back(registriesCheck());
  auto host = diagnoseHost(paths, settings ? *settings : Settings{});
  checks.insert(checks.end(), host.begin(), host.end());
  return checks;
}

void printChecks(const std::vector<Check>& checks, const Display& display) {
  std::size_t width = 0;
  for (const auto& check : checks) width = std::max(width, check.name.size());
  for (const auto& check : checks) {
    fmt::print("{}{:<7}{}  {:<{}}  {}\n", display.color ? color(check.severity) : "", severityName(check.severity),
               display.color ? "\033[0m" : "", check.name, width, printable(check.message));
    for (const auto& hint : check.hints) fmt::print("{:<{}}  -> {}\n", "", width + 9, printable(hint));
  }
}

}  // namespace

int runDoctor(const Display& display) {
  auto checks = allChecks();
  if (display.json) {
    Json list = Json::array();
    for (const auto& check : checks)
      list.push_back({{"name", check.name},
                      {"severity", severityName(check.severity)},
                      {"message", check.message},
                      {"hints", check.hints}});
    fmt::print("{}\n", list.dump(2, ' ', false, Json::error_handler_t::replace));
  } else {
    printChecks(checks, display);
  }
  return std::any_of(checks.begin(), checks.end(),
                     [](const Check& check) { return check.severity == Check::Severity::Error; })
             ? 1
             : 0;
}

}  // namespace userpod::ctl

// What no key alone can get wrong: keys against each other, and against this host.
#include <fmt/core.h>
#include <sys/stat.h>
#include <unistd.h>

#include "policy/settings_keys.hpp"
#include "policy/subnets.hpp"

namespace userpod {
namespace {

bool isSet(const Configuration& configuration, std::string_view key) {
  return configuration.origins.find(key) != configuration.origins.end();
}

void add(Configuration& configuration, Problem::Weight weight, std::string_view key, std::string what,
         std::string mend) {
  Problem problem{.weight = weight, .key = std::string(key), .what = std::move(what), .mend = std::move(mend)};
  if (auto origin = configuration.origins.find(key); origin != configuration.origins.end()) {
    problem.file = origin->second.file;
    problem.line = origin->second.line;
  }
  configuration.problems.push_back(std::move(problem));
}

bool isDirectory(const std::string& path) {
  struct stat info{};
  return ::stat(path.c_str(), &info) == 0 && S_ISDIR(info.st_mode);
}

bool isProgram(const std::string& path) {
  struct stat info{};
  return ::stat(path.c_str(), &info) == 0 && S_ISREG(info.st_mode) && ::access(path.c_str(), X_OK) == 0;
}

void checkProgram(Configuration& configuration, Problem::Weight weight, std::string_view key, const std::string& path) {
  if (path.empty() || isProgram(path)) return;
  bool there = ::access(path.c_str(), F_OK) == 0;
  add(configuration, weight, key,
      fmt::format("{} {}", path, there ? "is no program that can be run" : "does not exist"),
      "install it, or correct the path");
}

void checkDirectories(Configuration& configuration, std::string_view key, const std::vector<std::string>& directories) {
  if (!isSet(configuration, key)) return;
  for (const auto& directory : directories)
    if (!isDirectory(directory))
      add(configuration, Problem::Weight::Warning, key, fmt::format("{} is not a directory", directory),
          "make it, or take it out");
}

void checkRuntimes(Configuration& configuration) {
  const Settings& settings = configuration.settings;
  for (const auto& [name, handler] : settings.runtimes)
    checkProgram(configuration, name == settings.defaultRuntime ? Problem::Weight::Error : Problem::Weight::Warning,
                 "runtimes", handler.path);
}

// Said for a network that is not the one in use: allowed, as a drop-in may choose it, and worth a word.
void checkUnused(Configuration& configuration) {
  bool cni = configuration.settings.network == "cni";
  for (const char* key : {"cni-config-dirs", "cni-plugin-dirs", "cni-network", "cni-timeout"})
    if (!cni && isSet(configuration, key))
      add(configuration, Problem::Weight::Warning, key, "is not used with network = \"bridge\"",
          "set network = \"cni\", or take it out");
  for (const char* key : {"subnet", "subnet6", "address-reuse-delay"})
    if (cni && isSet(configuration, key))
      add(configuration, Problem::Weight::Warning, key, "is not used with network = \"cni\"",
          "say it in the CNI configuration, or set network = \"bridge\"");
}

}  // namespace

void checkTogether(Configuration& configuration) {
  const Settings& settings = configuration.settings;
  if (!settings.runtimes.contains(settings.defaultRuntime)) {
    std::vector<std::string> known;
    for (const auto& [name, handler] : settings.runtimes) known.push_back(name);
    std::string like = nearest(settings.defaultRuntime, known);
    add(configuration, Problem::Weight::Error, "default-runtime",
        fmt::format("\"{}\" has no table in [runtimes]", settings.defaultRuntime),
        like.empty() ? fmt::format("add [runtimes.{}]", settings.defaultRuntime)
                     : fmt::format("did you mean \"{}\"? Or add [runtimes.{}]", like, settings.defaultRuntime));
  }
  auto subnet = Subnet::parse(settings.subnet);
  if (!subnet || settings.subnet6.empty()) return;
  if (auto subnet6 = Subnet6::parse(settings.subnet6, *subnet); !subnet6)
    add(configuration, Problem::Weight::Error, isSet(configuration, "subnet6") ? "subnet6" : "subnet",
        fmt::format("subnet6 {} has no room for as many pods as {} has", settings.subnet6, subnet->text()),
        fmt::format("give subnet6 a prefix length of at most {}, or subnet a longer one", 96 + subnet->prefix));
}

void checkHost(Configuration& configuration) {
  const Settings settings = configuration.settings;
  checkProgram(configuration, Problem::Weight::Error, "conmon", settings.conmon);
  checkProgram(configuration, settings.uplink == "pasta" ? Problem::Weight::Error : Problem::Weight::Warning, "pasta",
               settings.pasta);
  checkProgram(configuration, settings.uplink == "slirp4netns" ? Problem::Weight::Error : Problem::Weight::Warning,
               "slirp4netns", settings.slirp4netns);
  checkRuntimes(configuration);
  checkDirectories(configuration, "hooks-dir", settings.hooksDirs);
  checkDirectories(configuration, "cdi-spec-dirs", settings.cdiSpecDirs);
  checkUnused(configuration);
  if (settings.network != "cni") return;
  checkDirectories(configuration, "cni-plugin-dirs", settings.cniPluginDirs);
  checkDirectories(configuration, "cni-config-dirs", settings.cniConfigDirs);
}

}  // namespace userpod

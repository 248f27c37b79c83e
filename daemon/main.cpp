// userpodd: main process of userpod.service.
#include <fmt/core.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <set>
#include <string_view>

#include "daemon/outer.hpp"
#include "daemon/sys/reload.hpp"
#include "policy/configuration.hpp"
#include "policy/settings.hpp"

namespace {

using namespace userpod;

constexpr std::string_view kHelp =
    "usage: userpodd [--check-config [--json] | --print-config [--default] [--json] | --reload | --version | --help]\n"
    "\n"
    "The rootless Kubernetes container runtime of a user's session. Started by userpod.service:\n"
    "  systemctl --user start userpod.service\n"
    "\n"
    "  --check-config  read userpod.toml and its drop-ins, print all that is wrong\n"
    "  --print-config  print all settings as they are, each with its documentation, default and origin\n"
    "  --default       the defaults instead\n"
    "  --json          for programs\n"
    "  --reload        of systemctl --user reload userpod.service: wait until the daemon has read the settings again\n"
    "  --version       print the version\n"
    "  --help          print this text\n";

// Above the time that systemd gives a start; the daemon itself takes some milliseconds.
constexpr std::chrono::seconds kReloadPatience{60};

struct Options {
  std::string_view verb;
  bool json = false;
  bool defaults = false;
};

// "FILE:LINE: KEY: what; mend", with what stands first in bold on a terminal.
void printProblem(const Problem& problem) {
  static const bool coloured = ::isatty(STDOUT_FILENO) != 0 && std::getenv("NO_COLOR") == nullptr;
  std::string text = problem.text();
  auto end = text.find(": ");
  if (!coloured || end == std::string::npos || problem.file.empty()) {
    fmt::print("{}\n", text);
    return;
  }
  const char* colour = problem.weight == Problem::Weight::Error ? "31" : "33";
  fmt::print("\033[1;{}m{}\033[0m{}\n", colour, text.substr(0, end), text.substr(end));
}

int checkConfig(const Options& options) {
  Configuration configuration = readConfiguration(configDirectory());
  checkHost(configuration);
  if (options.json) {
    fmt::print("{}", printProblemsJson(configuration.problems));
  } else {
    for (const auto& problem : configuration.problems) printProblem(problem);
    if (configuration.valid()) fmt::print("The configuration is valid.\n");
  }
  return configuration.valid() ? 0 : exitStatus(Code::ConfigInvalid);
}

int printConfig(const Options& options) {
  std::string directory = configDirectory();
  Configuration configuration;
  if (options.defaults)
    configuration.settings = defaultSettings(directory);
  else
    configuration = readConfiguration(directory);
  for (const auto& problem : configuration.problems)
    if (problem.weight == Problem::Weight::Error) fmt::print(stderr, "{}\n", problem.text());
  fmt::print("{}", options.json ? printConfigurationJson(configuration, directory)
                                : printConfiguration(configuration, directory));
  return configuration.valid() ? 0 : exitStatus(Code::ConfigInvalid);
}

int fail(const Error& error) {
  fmt::print(stderr, "userpodd: {}\n", error.text());
  return exitStatus(error.code());
}

int reload() {
  const char* daemon = std::getenv("MAINPID");
  int pid = daemon != nullptr ? std::atoi(daemon) : 0;
  if (pid <= 0)
    return fail({Code::InvalidArgument, "--reload is for systemd: systemctl --user reload userpod.service"});
  auto paths = userPaths();
  if (!paths) return fail(paths.error());
  auto outcome = requestReload(paths->runtime, pid, kReloadPatience);
  if (!outcome) return fail(outcome.error());
  fmt::print(outcome->status == 0 ? stdout : stderr, "{}\n", outcome->text);
  return outcome->status;
}

int usage() {
  fmt::print(stderr, "{}", kHelp);
  return exitStatus(Code::InvalidArgument);
}

}  // namespace

int main(int argc, char** argv) {
  if (argc == 1) return runOuter();
  Options options{.verb = argv[1]};
  std::set<std::string_view> more(argv + 2, argv + argc);
  options.json = more.erase("--json") > 0;
  options.defaults = more.erase("--default") > 0;
  bool prints = options.verb == "--print-config", checks = options.verb == "--check-config";
  if (!more.empty() || (options.json && !prints && !checks) || (options.defaults && !prints)) return usage();
  if (checks) return checkConfig(options);
  if (prints) return printConfig(options);
  if (options.verb == "--reload") return reload();
  if (options.verb == "--version") fmt::print("userpodd {}\n", USERPOD_VERSION);
  if (options.verb == "--help" || options.verb == "-h") fmt::print("{}", kHelp);
  return options.verb == "--version" || options.verb == "--help" || options.verb == "-h" ? 0 : usage();
}

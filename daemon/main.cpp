// userpodd: main process of userpod.service.
#include <fmt/core.h>

#include <cstdio>
#include <string_view>

#include "daemon/outer.hpp"
#include "policy/settings.hpp"

namespace {

constexpr std::string_view kHelp =
    "usage: userpodd [--config-check | --version | --help]\n"
    "\n"
    "The rootless Kubernetes container runtime of a user's session. Started by userpod.service:\n"
    "  systemctl --user start userpod.service\n"
    "\n"
    "  --config-check  read userpod.toml and its drop-ins, print what is wrong\n"
    "  --version       print the version\n"
    "  --help          print this text\n";

userpod::Status checkConfig() {
  USERPOD_TRY(paths, userpod::userPaths());
  USERPOD_TRY(settings, userpod::loadSettings(paths));
  (void)settings;
  return {};
}

}  // namespace

int main(int argc, char** argv) {
  if (argc == 1) return userpod::runOuter();
  std::string_view option = argv[1];
  if (argc == 2 && (option == "--help" || option == "-h")) {
    fmt::print("{}", kHelp);
    return 0;
  }
  if (argc == 2 && option == "--version") {
    fmt::print("userpodd {}\n", USERPOD_VERSION);
    return 0;
  }
  if (argc == 2 && option == "--config-check") {
    auto status = checkConfig();
    if (status) {
      fmt::print("The configuration is valid.\n");
      return 0;
    }
    fmt::print(stderr, "userpodd: {}\n", status.error().text());
    return userpod::exitStatus(status.error().code());
  }
  fmt::print(stderr, "{}", kHelp);
  return 64;
}

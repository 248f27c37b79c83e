#include "daemon/sys/stage.hpp"

#include <unistd.h>

#include <atomic>
#include <csignal>
#include <cstdlib>
#include <string>

#include "daemon/sys/log.hpp"

namespace userpod {
namespace {

// Where a test wants the process to end, read once.
struct KillPoint {
  std::string name;
  long left = 1;

  KillPoint() {
    const char* wanted = std::getenv("USERPOD_KILL_AT");
    if (wanted == nullptr) return;
    name = wanted;
    auto colon = name.find(':');
    if (colon == std::string::npos) return;
    left = std::strtol(name.c_str() + colon + 1, nullptr, 10);
    name.resize(colon);
  }
};

}  // namespace

void reachStage(std::string_view name, std::string_view id) {
  static const KillPoint point;
  static std::atomic<long> left{point.left};
  if (logLevel() >= Level::Debug)
    logMessage(Level::Debug, fmt::format("stage {} {}", name, id.substr(0, 16)),
               {{"USERPOD_STAGE", name}, {"USERPOD_OBJECT", id}});
  if (point.name != name || --left != 0) return;
  logMessage(Level::Notice, fmt::format("killed at stage {}, as USERPOD_KILL_AT says", name),
             {{"USERPOD_KILLED_AT", name}});
  ::kill(::getpid(), SIGKILL);
  for (;;) ::pause();
}

}  // namespace userpod

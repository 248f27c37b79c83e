#include "daemon/sys/stage.hpp"

#include <unistd.h>

#include <atomic>
#include <csignal>
#include <cstdlib>
#include <string>

#include "daemon/sys/log.hpp"

namespace userpod {
namespace {

// Where a test wants the process to end, or a thread to hang; read once.
struct TestPoint {
  std::string name;
  std::atomic<long> left{1};

  explicit TestPoint(const char* variable) {
    const char* wanted = std::getenv(variable);
    if (wanted == nullptr) return;
    name = wanted;
    auto colon = name.find(':');
    if (colon == std::string::npos) return;
    left = std::strtol(name.c_str() + colon + 1, nullptr, 10);
    name.resize(colon);
  }
  bool reached(std::string_view stage) { return name == stage && --left == 0; }
};

}  // namespace

void reachStage(std::string_view name, std::string_view id) {
  static TestPoint kill("USERPOD_KILL_AT");
  static TestPoint hang("USERPOD_HANG_AT");
  if (logLevel() >= Level::Debug)
    logMessage(Level::Debug, fmt::format("stage {} {}", name, id.substr(0, 16)),
               {{"USERPOD_STAGE", name}, {"USERPOD_OBJECT", id}});
  if (hang.reached(name))
    for (;;) ::pause();
  if (!kill.reached(name)) return;
  logMessage(Level::Notice, fmt::format("killed at stage {}, as USERPOD_KILL_AT says", name),
             {{"USERPOD_KILLED_AT", name}});
  ::kill(::getpid(), SIGKILL);
  for (;;) ::pause();
}

}  // namespace userpod

#include "daemon/daemon.hpp"

#include <malloc.h>
#include <sys/resource.h>
#include <systemd/sd-daemon.h>

#include <atomic>
#include <csignal>
#include <cstdlib>
#include <ctime>
#include <memory>

#include "daemon/core/core.hpp"
#include "daemon/cri/server.hpp"
#include "daemon/streaming/streaming.hpp"
#include "daemon/sys/log.hpp"
#include "dbus/bus.hpp"

namespace userpod {
namespace {

// Every thread with an arena of its own would cost more memory than the lock between two.
constexpr int kArenas = 2;

// For calls under way when the daemon stops; what they began goes on.
constexpr std::chrono::seconds kStopGrace{2};

Level levelNamed(const std::string& name) {
  if (name == "error") return Level::Error;
  if (name == "warning") return Level::Warning;
  if (name == "notice") return Level::Notice;
  if (name == "debug") return Level::Debug;
  return Level::Info;
}

// Thousands of containers' descriptors: as many as the hard limit has, up to what poll and friends bear easily.
void raiseDescriptorLimit() {
  rlimit limit{};
  if (::getrlimit(RLIMIT_NOFILE, &limit) < 0) return;
  limit.rlim_cur = std::min<rlim_t>(limit.rlim_max, 1U << 20);
  (void)::setrlimit(RLIMIT_NOFILE, &limit);
}

Result<UniqueFd> listener(const Paths& paths) {
  int count = ::sd_listen_fds(1);
  if (count > 1) return Error(Code::ConfigInvalid, "systemd passed more than one socket; userpod.socket has one");
  if (count == 1) return UniqueFd(SD_LISTEN_FDS_START);
  return cri::openListener(paths.criSocket());
}

void reload(const Paths& paths) {
  auto settings = loadSettings(paths);
  if (!settings) return logError("settings not read again: {}", settings.error());
  setLogLevel(levelNamed(settings->logLevel));
  logInfo("log level {}; other settings count from the next start", settings->logLevel);
}

// Until a signal ends it. The watchdog is fed only while the core strand answers.
void serve(core::Core& core, const sigset_t& signals) {
  std::uint64_t interval = 0;
  bool watched = ::sd_watchdog_enabled(0, &interval) > 0;
  std::uint64_t pause = watched ? interval / 3 : 60'000'000;
  auto answered = std::make_shared<std::atomic<bool>>(true);
  for (;;) {
    if (answered->exchange(false)) {
      if (watched) (void)::sd_notify(0, "WATCHDOG=1");
      core.ping([answered] { *answered = true; });
    }
    // Bursts (a pull, many creates at once) leave free pages between live ones; idle memory goes back to the system.
    ::malloc_trim(0);
    timespec wait{static_cast<time_t>(pause / 1'000'000), static_cast<long>(pause % 1'000'000 * 1000)};
    int signal = ::sigtimedwait(&signals, nullptr, &wait);
    if (signal == SIGTERM || signal == SIGINT) return;
    if (signal == SIGHUP) reload(core.paths());
  }
}

Status run(UniqueFd brokerSocket, const sigset_t& signals) {
  USERPOD_TRY(paths, userPaths());
  USERPOD_TRY(settings, loadSettings(paths));
  setLogLevel(levelNamed(settings.logLevel));
  USERPOD_TRY(socket, listener(paths));
  USERPOD_TRY(core, core::Core::open({paths, settings, std::make_shared<Broker>(std::move(brokerSocket))}));
  auto streams = streaming::Server::start(*core);
  if (!streams) {
    logWarning("no streaming: {}; exec, attach and port-forward are refused", streams.error());
    core->report({"Streaming", false, "StreamingUnavailable", streams.error().text()});
  }
  USERPOD_TRY(server, cri::Server::start(*core, streams ? streams->get() : nullptr, std::move(socket)));
  auto frontEnd = bus::Bus::start(*core);
  if (!frontEnd) {
    logWarning("no bus: {}; the CRI works without it", frontEnd.error());
    core->report({"SessionBus", false, "NoSessionBus", frontEnd.error().text()});
  }
  (void)::sd_notifyf(0, "READY=1\nSTATUS=Serving the CRI on %s", paths.criSocket().c_str());
  serve(*core, signals);
  (void)::sd_notify(0, "STOPPING=1");
  server->stop(kStopGrace);
  server.reset();
  if (streams) (*streams)->stop();
  if (frontEnd) frontEnd->reset();
  core.reset();
  if (streams) streams->reset();  // the core's last callbacks have gone there
  return {};
}

}  // namespace

int runDaemon(UniqueFd brokerSocket) {
  ::mallopt(M_ARENA_MAX, kArenas);
  raiseDescriptorLimit();
  std::signal(SIGPIPE, SIG_IGN);
  sigset_t signals;
  sigemptyset(&signals);
  for (int signal : {SIGTERM, SIGINT, SIGHUP, SIGUSR1}) sigaddset(&signals, signal);
  // Before the first thread, so that every thread inherits it.
  ::pthread_sigmask(SIG_BLOCK, &signals, nullptr);
  if (auto status = run(std::move(brokerSocket), signals); !status) {
    logFailure(Level::Error, status.error());
    (void)::sd_notifyf(0, "STATUS=%s", status.error().text().c_str());
    return exitStatus(status.error().code());
  }
  return EXIT_SUCCESS;
}

}  // namespace userpod

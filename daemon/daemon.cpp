#include "daemon/daemon.hpp"

#include <malloc.h>
#include <sys/resource.h>
#include <systemd/sd-daemon.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <csignal>
#include <cstdlib>
#include <ctime>
#include <future>
#include <memory>

#include "daemon/core/core.hpp"
#include "daemon/cri/server.hpp"
#include "daemon/streaming/streaming.hpp"
#include "daemon/sys/cpu_time.hpp"
#include "daemon/sys/log.hpp"
#include "daemon/sys/memory.hpp"
#include "daemon/sys/pulse.hpp"
#include "daemon/sys/reload.hpp"
#include "dbus/bus.hpp"
#include "policy/configuration.hpp"

namespace userpod {
namespace {

// Every thread with an arena of its own would cost more memory than the lock between two.
constexpr int kArenas = 2;

// For calls under way when the daemon stops; what they began goes on.
constexpr std::chrono::seconds kStopGrace{2};

// Memory is given back after so much processor time, and so many times of what giving it back took last: a heap of many
// pieces takes a tenth of a second.
constexpr std::chrono::milliseconds kWorkToTrim{100};
constexpr int kWorkToCost = 20;

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

// What `systemctl status` shows: that it serves, or why a reload has changed nothing.
void tellStatus(const Paths& paths, const std::string& problem) {
  if (problem.empty())
    (void)::sd_notifyf(0, "STATUS=Serving the CRI on %s", paths.criSocket().c_str());
  else
    (void)::sd_notifyf(0, "STATUS=Serving, with the configuration as it was before: %s", problem.c_str());
}

// Also for reloads that the bus asked for.
void followConfiguration(core::Core& core) {
  core.subscribe([paths = core.paths(), told = std::string()](const core::Change& change) mutable {
    if (change.kind != core::Change::Kind::Conditions) return;
    std::string problem;
    for (const auto& condition : change.snapshot->conditions)
      if (condition.type == "Configuration" && !condition.ok) problem = condition.message;
    if (problem == told) return;
    told = problem;
    tellStatus(paths, problem);
  });
}

// What the main thread does while the daemon serves: it feeds the watchdog and takes signals, and waits for nothing
// else.
class Attendant {
 public:
  Attendant(core::Core& core, Pulse& pulse, bool watched) : core_(core), pulse_(pulse), watched_(watched) {}
  // Until a signal ends it.
  void serve(const sigset_t& signals);

 private:
  void look();
  void rest();
  void startReload();
  void finishReload();

  core::Core& core_;
  Pulse& pulse_;
  bool watched_;
  std::string request_;                 // of the reload under way
  std::future<ReloadOutcome> outcome_;  // valid while one is
  bool again_ = false;                  // one more was asked for meanwhile
  std::chrono::nanoseconds trimAt_{0};  // at so much processor time of all threads: the start is work, too
};

void Attendant::serve(const sigset_t& signals) {
  for (;;) {
    look();
    auto left = std::chrono::ceil<std::chrono::nanoseconds>(pulse_.next() - Pulse::Clock::now()).count();
    left = std::max<std::int64_t>(left, 0);
    timespec wait{left / 1'000'000'000, left % 1'000'000'000};
    int signal = ::sigtimedwait(&signals, nullptr, &wait);
    if (signal == SIGTERM || signal == SIGINT) return;
    if (signal == SIGHUP) startReload();
    if (outcome_.valid() && outcome_.wait_for(std::chrono::seconds(0)) == std::future_status::ready) finishReload();
  }
}

// The watchdog is fed only while all that clients wait for answers.
void Attendant::look() {
  switch (pulse_.look(Pulse::Clock::now())) {
    case Pulse::Look::Nothing:
      return;
    case Pulse::Look::Silent:
      return logError("no answer of: {}; without one userpodd is started anew", pulse_.silent());
    case Pulse::Look::Beat:
      if (watched_) (void)::sd_notify(0, "WATCHDOG=1");
      rest();
  }
}

// What a burst of work has used (a start, a pull, many creates at once) goes back to the system.
void Attendant::rest() {
  auto begin = processCpuTime();
  if (begin < trimAt_) return;
  giveBackMemory();
  auto end = processCpuTime();
  trimAt_ = end + std::max<std::chrono::nanoseconds>(kWorkToTrim, kWorkToCost * (end - begin));
}

// One after the other. The request first: what it has written before it is read is read.
void Attendant::startReload() {
  again_ = outcome_.valid();
  if (again_) return;
  timespec now{};
  ::clock_gettime(CLOCK_MONOTONIC, &now);
  (void)::sd_notifyf(0, "RELOADING=1\nMONOTONIC_USEC=%lld", now.tv_sec * 1'000'000LL + now.tv_nsec / 1000);
  request_ = reloadRequest(core_.paths().runtime);
  auto outcome = std::make_shared<std::promise<ReloadOutcome>>();
  outcome_ = outcome->get_future();
  core_.reload([outcome](Result<core::Reloaded> reloaded) {
    outcome->set_value(reloaded ? ReloadOutcome{0, reloaded->text()}
                                : ReloadOutcome{exitStatus(reloaded.error().code()), reloaded.error().text()});
    (void)::kill(::getpid(), SIGUSR1);  // wakes serve(): no other thread takes it
  });
}

void Attendant::finishReload() {
  (void)::sd_notify(0, "READY=1");
  if (auto told = answerReload(core_.paths().runtime, request_, outcome_.get()); !told)
    logWarning("outcome of the reload: {}", told.error());
  if (again_) startReload();
}

// Three beats in each of the watchdog's times; without one, only for the memory that is given back.
Pulse::Clock::duration pauseOf(bool watched, std::uint64_t interval) {
  return watched ? std::chrono::microseconds(interval / 3) : std::chrono::microseconds(std::chrono::minutes(1));
}

// Everything that is wrong with the files, then the first of it as the error.
Result<Settings> startSettings(const Paths& paths) {
  Configuration configuration = readConfiguration(paths.config);
  logProblems(configuration.problems);
  USERPOD_CHECK(configuration.status());
  return std::move(configuration.settings);
}

Status run(UniqueFd brokerSocket, const sigset_t& signals) {
  USERPOD_TRY(paths, userPaths());
  USERPOD_TRY(settings, startSettings(paths));
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
  followConfiguration(*core);
  std::uint64_t interval = 0;
  bool watched = ::sd_watchdog_enabled(0, &interval) > 0;
  Pulse pulse(pauseOf(watched, interval));
  if (watched) {
    pulse.add("core", [&core](auto answer) { core->ping(std::move(answer)); });
    pulse.add("CRI server", [&server](auto answer) { server->ping(std::move(answer)); });
    if (frontEnd)
      pulse.add(
          "bus", [&frontEnd](auto answer) { (*frontEnd)->ping(std::move(answer)); },
          [&frontEnd] { return (*frontEnd)->asking(); });
  }
  tellStatus(paths, "");
  (void)::sd_notify(0, "READY=1");
  Attendant(*core, pulse, watched).serve(signals);
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

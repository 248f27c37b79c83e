#include "daemon/outer.hpp"

#include <fmt/core.h>
#include <poll.h>
#include <signal.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <systemd/sd-daemon.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstdlib>

#include "daemon/sys/log.hpp"
#include "daemon/sys/memory.hpp"
#include "userns/broker.hpp"
#include "userns/fork.hpp"
#include "userns/node.hpp"

namespace userpod {
namespace {

constexpr std::array kForwarded = {SIGTERM, SIGINT, SIGHUP, SIGUSR1};

sigset_t forwardedSet() {
  sigset_t set;
  sigemptyset(&set);
  for (int number : kForwarded) sigaddset(&set, number);
  return set;
}

int listenCount() {
  const char* count = std::getenv("LISTEN_FDS");
  return count != nullptr ? std::atoi(count) : 0;
}

// systemd addressed these to the outer's pid; sd_listen_fds and sd_watchdog_enabled compare it with the own one.
void mendEnvironment() {
  if (listenCount() > 0) ::setenv("LISTEN_PID", std::to_string(::getpid()).c_str(), 1);
  ::unsetenv("WATCHDOG_PID");
}

// The listening sockets belong to the inner alone: held here, a socket would look alive after its daemon has died.
void closePassedSockets() {
  for (int i = 0; i < listenCount(); ++i) ::close(SD_LISTEN_FDS_START + i);
}

// In the inner process: becomes the daemon, which takes the broker's socket from the number it is told.
int executeInner(int broker) {
  mendEnvironment();
  int passed = ::dup(broker);  // without close-on-exec
  std::string number = std::to_string(passed);
  ::execl(USERPOD_INNER, "userpodd", number.c_str(), nullptr);
  logError("execute {}: {}; install userpod again", USERPOD_INNER, sysError("execute"));
  return exitStatus(Code::HelperMissing);
}

int watch(Child& inner, int signals, UniqueFd broker) {
  for (;;) {
    std::array<pollfd, 3> entries = {pollfd{signals, POLLIN, 0}, pollfd{inner.pidfd(), POLLIN, 0},
                                     pollfd{broker.get(), POLLIN, 0}};
    if (::poll(entries.data(), entries.size(), -1) < 0 && errno != EINTR) return exitStatus(Code::System);
    signalfd_siginfo info{};
    if (entries[0].revents != 0 && ::read(signals, &info, sizeof(info)) == sizeof(info))
      (void)inner.kill(static_cast<int>(info.ssi_signo));
    if (entries[2].revents != 0)
      if (auto status = answerBrokerRequest(broker.get()); !status) broker.reset();  // its end follows
    if (entries[1].revents == 0) continue;
    auto status = inner.wait();
    if (!status) return exitStatus(Code::System);
    if (status->signal != 0) logError("the daemon was killed by signal {}", status->signal);
    return status->code;
  }
}

Result<int> run() {
  sigset_t forwarded = forwardedSet();
  ::sigprocmask(SIG_BLOCK, &forwarded, nullptr);
  UniqueFd signals(::signalfd(-1, &forwarded, SFD_CLOEXEC | SFD_NONBLOCK));
  if (!signals) return sysError("signalfd");
  USERPOD_TRY(paths, userPaths());
  USERPOD_TRY(node, Node::find(paths));
  USERPOD_TRY(pair, makeSocketPair(SOCK_SEQPACKET));
  int on = 1;
  if (::setsockopt(pair.first.get(), SOL_SOCKET, SO_PASSCRED, &on, sizeof(on)) < 0) return sysError("broker socket");
  USERPOD_TRY(child, forkInside(node, {}, [&] {
                pair.first.reset();
                signals.reset();
                return executeInner(pair.second.get());
              }));
  pair.second.reset();
  closePassedSockets();
  giveBackMemory();
  return watch(child, signals.get(), std::move(pair.first));
}

}  // namespace

int runOuter() {
  auto status = run();
  if (status) return *status;
  logError("{}", status.error());
  sd_notify(0, ("STATUS=" + status.error().text()).c_str());
  return exitStatus(status.error().code());
}

}  // namespace userpod

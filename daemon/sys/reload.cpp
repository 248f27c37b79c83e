#include "daemon/sys/reload.hpp"

#include <fcntl.h>
#include <fmt/core.h>
#include <poll.h>
#include <sys/file.h>
#include <sys/inotify.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <csignal>
#include <optional>

#include "daemon/sys/fd.hpp"
#include "daemon/sys/util.hpp"

namespace userpod {
namespace {

std::string directoryOf(const std::string& runtime) {
  return runtime + "/reload";
}

// The answer to this request, once it is there: three parts, the last with lines of its own.
std::optional<ReloadOutcome> outcomeOf(const std::string& runtime, const std::string& request) {
  auto text = readFile(directoryOf(runtime) + "/outcome");
  if (!text || !text->starts_with(request + "\n")) return std::nullopt;
  std::string rest = text->substr(request.size() + 1);
  auto end = rest.find('\n');
  if (end == std::string::npos) return std::nullopt;
  return ReloadOutcome{std::atoi(rest.substr(0, end).c_str()), rest.substr(end + 1)};
}

Result<ReloadOutcome> await(const std::string& runtime, const std::string& request, int renames, int daemon,
                            std::chrono::seconds patience) {
  auto end = std::chrono::steady_clock::now() + patience;
  for (;;) {
    if (auto outcome = outcomeOf(runtime, request)) return *outcome;
    auto left = std::chrono::duration_cast<std::chrono::milliseconds>(end - std::chrono::steady_clock::now());
    if (left.count() <= 0)
      return Error(Code::Timeout, fmt::format("userpodd has not answered for {} s; see `systemctl --user status "
                                              "userpod.service`",
                                              patience.count()));
    std::array<pollfd, 2> entries = {pollfd{renames, POLLIN, 0}, pollfd{daemon, POLLIN, 0}};
    if (::poll(entries.data(), entries.size(), static_cast<int>(left.count()) + 1) < 0 && errno != EINTR)
      return sysError("wait for userpodd");
    std::array<char, 4096> events;
    if (entries[0].revents != 0) (void)!::read(renames, events.data(), events.size());
    if (entries[1].revents == 0) continue;
    if (auto outcome = outcomeOf(runtime, request)) return *outcome;
    return Error(Code::NotReady, "userpodd ended during the reload; see `journalctl --user -u userpod.service`");
  }
}

}  // namespace

Result<ReloadOutcome> requestReload(const std::string& runtime, pid_t daemon, std::chrono::seconds patience) {
  std::string directory = directoryOf(runtime);
  USERPOD_CHECK(makeDirectories(directory, 0700));
  USERPOD_TRY(lock, openFile(directory + "/lock", O_RDWR | O_CREAT, 0600));
  if (::flock(lock.get(), LOCK_EX) < 0) return sysError("lock " + directory + "/lock");
  UniqueFd pidfd(static_cast<int>(::syscall(SYS_pidfd_open, daemon, 0)));
  if (!pidfd) return sysError(fmt::format("find process {}", daemon)).as(Code::NotReady);
  UniqueFd renames(::inotify_init1(IN_CLOEXEC | IN_NONBLOCK));
  if (!renames || ::inotify_add_watch(renames.get(), directory.c_str(), IN_MOVED_TO) < 0)
    return sysError("watch " + directory);
  std::string request = randomHex(8);
  USERPOD_CHECK(writeFileAtomic(directory + "/request", request, 0600));
  if (::syscall(SYS_pidfd_send_signal, pidfd.get(), SIGHUP, nullptr, 0) < 0)
    return sysError(fmt::format("signal process {}", daemon));
  return await(runtime, request, renames.get(), pidfd.get(), patience);
}

std::string reloadRequest(const std::string& runtime) {
  auto request = readFile(directoryOf(runtime) + "/request", 64);
  return request && isHex(*request) ? *request : "";
}

Status answerReload(const std::string& runtime, const std::string& request, const ReloadOutcome& outcome) {
  if (request.empty()) return {};
  return writeFileAtomic(directoryOf(runtime) + "/outcome",
                         fmt::format("{}\n{}\n{}", request, outcome.status, outcome.text), 0600);
}

}  // namespace userpod

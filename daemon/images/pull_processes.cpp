#include "daemon/images/pull_processes.hpp"

#include <fmt/core.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <cstdlib>

#include "daemon/images/unpack/unpack_budget.hpp"

namespace userpod::images {

namespace {

constexpr int kChannel = 3;    // of userpod-pull
constexpr int kDirectory = 3;  // of userpod-unpack
constexpr int kCounters = 4;
constexpr std::size_t kLongestOutcome = 64U << 10;

// What a client of registries looks at: its configuration's places, proxies, trust, and what credential helpers need.
constexpr const char* kPassedOn[] = {"HOME",
                                     "PATH",
                                     "USER",
                                     "LOGNAME",
                                     "LANG",
                                     "LC_ALL",
                                     "XDG_RUNTIME_DIR",
                                     "XDG_CONFIG_HOME",
                                     "XDG_CACHE_HOME",
                                     "XDG_DATA_HOME",
                                     "CONTAINERS_REGISTRIES_CONF",
                                     "CONTAINERS_REGISTRIES_CONF_OVERRIDE",
                                     "REGISTRY_AUTH_FILE",
                                     "http_proxy",
                                     "https_proxy",
                                     "no_proxy",
                                     "all_proxy",
                                     "HTTP_PROXY",
                                     "HTTPS_PROXY",
                                     "NO_PROXY",
                                     "ALL_PROXY",
                                     "SSL_CERT_FILE",
                                     "SSL_CERT_DIR",
                                     "DBUS_SESSION_BUS_ADDRESS",
                                     "DISPLAY",
                                     "WAYLAND_DISPLAY",
                                     "XAUTHORITY",
                                     "GNUPGHOME",
                                     "PASSWORD_STORE_DIR",
                                     "PASSWORD_STORE_GPG_OPTS",
                                     "JOURNAL_STREAM",
                                     "ASAN_OPTIONS",
                                     "UBSAN_OPTIONS",
                                     "TSAN_OPTIONS"};
// Of the helpers for registries of clouds.
constexpr const char* kPassedOnFamilies[] = {"DOCKER_", "AWS_", "AZURE_", "CLOUDSDK_", "GOOGLE_"};

std::vector<std::string> environment(std::initializer_list<const char*> names) {
  std::vector<std::string> found;
  for (const char* name : names)
    if (const char* value = std::getenv(name)) found.push_back(fmt::format("{}={}", name, value));
  return found;
}

Result<Unpacked> verdict(const UnpackProcess& process, const ExitStatus& status) {
  if (status.code == 0) return parseOutcome(process.text);
  std::string how = status.signal == 0
                        ? fmt::format("ended with status {}", status.code)
                        : fmt::format("was ended by signal {}{}", status.signal,
                                      status.signal == SIGKILL || status.signal == SIGABRT ? " (no memory?)" : "");
  return Error(Code::Internal, "the process that unpacks it " + how);
}

Error startFailed(Error error, const std::string& program) {
  bool missing = error.sysErrno() == ENOENT;
  error = std::move(error).wrap("start " + program);
  return missing ? std::move(error).as(Code::HelperMissing) : error;
}

}  // namespace

Result<TransferProcess> startTransfer(const PullPrograms& programs) {
  USERPOD_TRY(pair, makeSocketPair(SOCK_STREAM));
  SpawnOptions options;
  options.argv = {programs.pull, programs.data};
  for (const char* name : kPassedOn)
    for (auto& entry : environment({name})) options.environment.push_back(std::move(entry));
  for (char** entry = environ; *entry != nullptr; ++entry)
    for (std::string_view family : kPassedOnFamilies)
      if (std::string_view(*entry).starts_with(family)) options.environment.emplace_back(*entry);
  options.descriptors = {{pair.second.get(), kChannel}, {STDERR_FILENO, STDERR_FILENO}};
  options.directory = "/";
  options.deathSignal = SIGKILL;
  auto child = spawn(options);
  if (!child) return startFailed(std::move(child).error(), programs.pull);
  return TransferProcess{std::move(*child), std::make_unique<Channel>(std::move(pair.first))};
}

Result<SharedCounters> SharedCounters::make() {
  UniqueFd fd(::memfd_create("userpod-pull", MFD_CLOEXEC));
  if (!fd || ::ftruncate(fd.get(), sizeof(UnpackCounters)) < 0) return sysError("make shared memory for a pull");
  return SharedCounters(std::move(fd));
}

Result<UnpackProcess> startUnpack(const PullPrograms& programs, const UnpackOrder& order, const UniqueFd& source,
                                  int directory, const SharedCounters& counters) {
  USERPOD_TRY(outcome, makePipe());
  SpawnOptions options;
  options.argv = {programs.unpack, orderText(order)};
  options.environment = environment({"ASAN_OPTIONS", "UBSAN_OPTIONS", "TSAN_OPTIONS"});
  options.descriptors = {{source.get(), STDIN_FILENO},
                         {outcome.write.get(), STDOUT_FILENO},
                         {STDERR_FILENO, STDERR_FILENO},
                         {directory, kDirectory},
                         {counters.fd(), kCounters}};
  options.directory = "/";
  options.deathSignal = SIGKILL;
  auto child = spawn(options);
  if (!child) return startFailed(std::move(child).error(), programs.unpack);
  return UnpackProcess{std::move(*child), std::move(outcome.read), {}};
}

std::optional<Result<Unpacked>> readOutcome(UnpackProcess& process) {
  char buffer[4096];
  ssize_t count = ::read(process.outcome.get(), buffer, sizeof buffer);
  if (count < 0 && errno == EINTR) return std::nullopt;
  if (count > 0 && process.text.size() < kLongestOutcome) {
    process.text.append(buffer, static_cast<std::size_t>(count));
    return std::nullopt;
  }
  process.outcome.reset();
  // One that says too much has no honest words, and one that has said all has nothing more to do.
  constexpr std::chrono::seconds kEnd{2};
  if (count > 0) (void)process.child.kill(SIGKILL);
  if (auto ended = process.child.waitFor(kEnd); ended && *ended) return verdict(process, **ended);
  (void)process.child.kill(SIGKILL);
  if (auto status = process.child.wait(); !status) return Result<Unpacked>(std::move(status).error());
  return parseOutcome(process.text);
}

}  // namespace userpod::images

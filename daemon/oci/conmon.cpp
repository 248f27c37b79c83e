// Making a container: conmon in a cgroup of its own, which runs `crun create` and stays as the container's monitor.
#include <fmt/core.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <cerrno>

#include "daemon/oci/messages.hpp"
#include "daemon/oci/runtime_impl.hpp"
#include "daemon/sys/stage.hpp"
#include "daemon/sys/util.hpp"

namespace userpod::oci {
namespace {

constexpr std::chrono::minutes kCreateTime{2};
constexpr std::size_t kAnswerLimit = 64 << 10;

// conmon writes one line of JSON and keeps the descriptor: read to the line's end, not to the stream's.
Result<std::string> readAnswer(int fd) {
  std::string answer;
  auto end = std::chrono::steady_clock::now() + kCreateTime;
  while (answer.find('\n') == std::string::npos && answer.size() < kAnswerLimit) {
    auto left = std::chrono::duration_cast<std::chrono::milliseconds>(end - std::chrono::steady_clock::now()).count();
    if (left <= 0)
      return Error(Code::Timeout, "conmon and the OCI runtime did not answer within two minutes; both were killed");
    pollfd entry{fd, POLLIN, 0};
    int ready = ::poll(&entry, 1, static_cast<int>(left));
    if (ready < 0 && errno != EINTR) return sysError("poll conmon");
    if (ready <= 0) continue;
    std::array<char, 4096> buffer{};
    ssize_t count = ::read(fd, buffer.data(), buffer.size());
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) return sysError("read from conmon");
    if (count == 0) break;
    answer.append(buffer.data(), static_cast<std::size_t>(count));
  }
  return answer;
}

std::string readWords(int fd) {
  std::array<char, 8192> buffer{};
  ssize_t count = ::read(fd, buffer.data(), buffer.size());
  return plainMessage({buffer.data(), static_cast<std::size_t>(std::max<ssize_t>(count, 0))});
}

Result<pid_t> pidOf(const std::string& text, const std::string& flavour, int errors) {
  auto answer = parseMonitorAnswer(text);
  if (answer && answer->pid > 0) return answer->pid;
  std::string words = answer && !answer->words.empty() ? answer->words : readWords(errors);
  if (!answer)
    return Error(Code::MonitorFailed, "conmon ended without an answer" + (words.empty() ? "" : ": " + words));
  return Error(Code::RuntimeFailed, flavour + " create: " + (words.empty() ? "failed without a word" : words));
}

Result<pid_t> readPidFile(const std::string& path) {
  USERPOD_TRY(text, readFile(path, 64));
  auto pid = parseNumber(text);
  if (!pid || *pid <= 0) return Error(Code::MonitorFailed, path + " holds no process number");
  return *pid;
}

}  // namespace

SpawnOptions RuntimeImpl::monitorOptions(const Handler& handler, const CreateInput& input, int cgroup) const {
  SpawnOptions options;
  options.argv = {conmon_,
                  "--api-version=1",
                  "--cid=" + input.id,
                  "--cuuid=" + input.id,
                  "--name=" + input.id,
                  "--runtime=" + handler.program,
                  "--bundle=" + input.bundle,
                  "--container-pidfile=" + input.bundle + "/pid",
                  "--conmon-pidfile=" + input.bundle + "/conmon.pid",
                  "--exit-dir=" + paths_.exits(),
                  "--log-path=" + (input.logPath.empty() ? "none" : "k8s-file:" + input.logPath),
                  "--log-level=error",
                  "--full-attach",  // socket <bundle>/attach, made through /proc/self/fd: no limit of sun_path
                  "--no-new-keyring",
                  "--no-sync-log"};  // an exit must not wait for the disk
  auto command = handler.command();
  for (auto argument = command.begin() + 1; argument != command.end(); ++argument)
    options.argv.push_back("--runtime-arg=" + *argument);
  if (input.tty) options.argv.emplace_back("--terminal");
  if (input.stdinOpen) {
    options.argv.emplace_back("--stdin");
    if (!input.stdinOnce) options.argv.emplace_back("--leave-stdin-open");
  }
  options.environment = toolEnvironment(paths_);
  options.environment.emplace_back("_OCI_SYNCPIPE=3");
  options.cgroup = cgroup;
  // Not in the node's cgroup namespace: conmon would find the container's memory.events and watch it, with an inotify
  // instance a container (fs.inotify.max_user_instances is 128). The daemon watches them all with its own one.
  options.directory = input.bundle;
  return options;
}

Result<CreatedProcess> RuntimeImpl::launchMonitor(const Handler& handler, const CreateInput& input) const {
  USERPOD_TRY(cgroup, node_.makeCgroup("/mon/" + input.id));
  // A socket, as conmon keeps its end for the container's whole life: a pipe would count against the user's quota of
  // pipe pages (fs.pipe-user-pages-soft), of which each container's two outputs take their share already.
  USERPOD_TRY(answers, makeSocketPair(SOCK_STREAM));
  USERPOD_TRY(errors, makePipe(O_NONBLOCK));
  auto options = monitorOptions(handler, input, cgroup.get());
  options.descriptors = {{answers.second.get(), 3}, {errors.write.get(), 2}};
  USERPOD_TRY(first, spawnTool(options));
  answers.second.reset();
  errors.write.reset();
  reachStage("container.monitor", input.id);
  USERPOD_TRY(answer, readAnswer(answers.first.get()));
  // The monitor is its child's child by now, or has failed: either way this one ends at once.
  USERPOD_TRY(ended, first.waitFor(std::chrono::seconds(10)));
  if (!ended) return Error(Code::MonitorFailed, "conmon did not leave its monitor behind");
  USERPOD_TRY(pid, pidOf(answer, handler.flavour, errors.read.get()));
  CreatedProcess process;
  process.pid = pid;
  USERPOD_TRY(start, processStartTime(pid));
  process.pidStart = start;
  USERPOD_TRY(monitor, readPidFile(input.bundle + "/conmon.pid"));
  process.monitorPid = monitor;
  return process;
}

Result<CreatedProcess> RuntimeImpl::create(const CreateInput& input) {
  USERPOD_TRY(handler, find(input.handler));
  // conmon splits its log argument at colons.
  if (input.logPath.find(':') != std::string::npos)
    return Error(Code::InvalidArgument,
                 "log_path " + input.logPath + " contains a colon, which conmon cannot take; leave it out");
  auto process = launchMonitor(*handler, input);
  if (!process) (void)remove(input.id, input.handler);
  return process;
}

}  // namespace userpod::oci

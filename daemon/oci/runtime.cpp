#include <fmt/core.h>
#include <linux/keyctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <filesystem>

#include "daemon/oci/exec.hpp"
#include "daemon/oci/messages.hpp"
#include "daemon/oci/oci.hpp"
#include "daemon/oci/runtime_impl.hpp"
#include "daemon/sys/log.hpp"
#include "daemon/sys/util.hpp"

namespace userpod::oci {
namespace {

// `crun start` and `crun delete` take 2 ms; this only bounds a machine that hangs.
constexpr std::chrono::seconds kToolTime{60};
constexpr const char* kLeaf = "/exec";
constexpr unsigned kExecLoops = 4;

}  // namespace

Result<Child> spawnTool(const SpawnOptions& options) {
  // Once a thread, so their number stays that of the worker threads. Without keyrings in the kernel (ENOSYS) there is
  // nothing to hide.
  static thread_local bool joined = false;
  if (!joined) {
    joined = true;
    if (::syscall(SYS_keyctl, KEYCTL_JOIN_SESSION_KEYRING, nullptr) < 0 && errno != ENOSYS)
      logWarning("containers share the session keyring of the user: {}; see /proc/key-users for the quota",
                 sysError("join a new keyring"));
  }
  return spawn(options);
}

std::vector<std::string> toolEnvironment(const Paths& paths) {
  // conmon makes its console socket below TMPDIR: a short path of the node's own.
  return {"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "TMPDIR=" + paths.node};
}

std::string execDirectory(const Paths& paths) {
  return paths.node + "/execs";
}

Result<std::unique_ptr<Runtime>> Runtime::open(const Paths& paths, const Settings& settings, const NodeInside& node) {
  auto runtime = std::make_unique<RuntimeImpl>(paths, node);
  USERPOD_CHECK(runtime->prepare(settings));
  return std::unique_ptr<Runtime>(std::move(runtime));
}

RuntimeImpl::RuntimeImpl(const Paths& paths, const NodeInside& node) : paths_(paths), node_(node) {}
RuntimeImpl::~RuntimeImpl() = default;

Status RuntimeImpl::prepare(const Settings& settings) {
  defaultHandler_ = settings.defaultRuntime;
  auto wanted = settings.runtimes;
  wanted.try_emplace(defaultHandler_);
  USERPOD_CHECK(makeDirectories(paths_.node + "/bin", 0755));
  for (const auto& [name, configured] : wanted) {
    auto handler = openHandler(paths_, name, configured.path);
    if (handler) {
      handlers_.emplace(name, std::move(*handler));
    } else if (name == defaultHandler_) {
      return std::move(handler).error().wrap("default runtime " + name);
    } else {
      logWarning("runtime handler {} is not available: {}", name, handler.error());
    }
  }
  if (settings.conmon.empty()) {
    USERPOD_TRY(found, findProgram("conmon"));
    conmon_ = found;
  } else if (::access(settings.conmon.c_str(), X_OK) == 0) {
    conmon_ = settings.conmon;
  } else {
    return sysError("conmon " + settings.conmon + ", as configured,").as(Code::HelperMissing);
  }
  pause_ = paths_.node + "/bin/userpod-pause";
  if (auto bound = bindReadOnly(USERPOD_LIBEXEC "/userpod-pause", pause_); !bound)
    logWarning("pods cannot share a PID namespace: {}", bound.error());
  USERPOD_CHECK(makeDirectories(paths_.exits(), 0700));
  // Calls and execs of a daemon that was killed: nobody reads their answers any more. An empty cgroup stays: the one
  // that a test beside a living daemon would remove is that daemon's too.
  auto left = readFile(node_.cgroupRoot + kLeaf + "/cgroup.procs");
  if (left && !trim(*left).empty()) USERPOD_CHECK(node_.removeCgroup(kLeaf));
  USERPOD_CHECK(removeTree(execDirectory(paths_)));
  USERPOD_CHECK(makeDirectories(execDirectory(paths_), 0700));
  USERPOD_TRY(leaf, node_.makeCgroup(kLeaf));
  leaf_ = std::move(leaf);
  for (unsigned i = 0; i < kExecLoops; ++i) {
    USERPOD_TRY(loop, ExecLoop::start(paths_, node_, leaf_.get()));
    execLoops_.push_back(std::move(loop));
  }
  return {};
}

Result<const Handler*> RuntimeImpl::find(const std::string& handler) const {
  auto found = handlers_.find(handler.empty() ? defaultHandler_ : handler);
  if (found == handlers_.end())
    return Error(Code::InvalidArgument, "runtime handler \"" + handler.substr(0, 128) +
                                            "\" is not configured; name it in userpod.toml, or leave it empty");
  return &found->second;
}

bool RuntimeImpl::hasHandler(const std::string& handler) const {
  return static_cast<bool>(find(handler));
}

bool RuntimeImpl::recursiveReadOnly(const std::string& handler) const {
  auto found = find(handler);
  return found && (*found)->recursiveReadOnly;
}

std::pair<std::string, std::string> RuntimeImpl::version() const {
  const Handler& handler = handlers_.at(defaultHandler_);
  return {handler.flavour, handler.version};
}

// Born in a cgroup of the node: from its cgroup namespace a process outside of it could not move anything.
SpawnOptions RuntimeImpl::inLeaf(const Handler& handler, std::vector<std::string> arguments) const {
  SpawnOptions options;
  options.argv = handler.command();
  options.argv.insert(options.argv.end(), std::make_move_iterator(arguments.begin()),
                      std::make_move_iterator(arguments.end()));
  options.environment = toolEnvironment(paths_);
  options.cgroup = leaf_.get();
  options.cgroupNamespace = node_.cgroupNamespace.get();
  options.directory = "/";
  return options;
}

Status RuntimeImpl::runTool(const Handler& handler, std::vector<std::string> arguments) const {
  std::string what = handler.flavour + " " + arguments.front();
  SpawnOptions options = inLeaf(handler, std::move(arguments));
  USERPOD_TRY(words, makePipe(O_NONBLOCK));
  options.descriptors = {{words.write.get(), 2}};
  USERPOD_TRY(child, spawnTool(options));
  words.write.reset();
  USERPOD_TRY(status, child.waitFor(kToolTime));
  if (!status) return Error(Code::Timeout, what + " did not end within a minute and was killed");
  if (status->code == 0) return {};
  std::array<char, 8192> text{};
  ssize_t count = ::read(words.read.get(), text.data(), text.size());
  std::string said = plainMessage({text.data(), static_cast<std::size_t>(std::max<ssize_t>(count, 0))});
  return Error(Code::RuntimeFailed, what + ": " + (said.empty() ? fmt::format("exit status {}", status->code) : said));
}

Status RuntimeImpl::start(const std::string& id, const std::string& handlerName) {
  USERPOD_TRY(handler, find(handlerName));
  return runTool(*handler, {"start", id});
}

Status RuntimeImpl::remove(const std::string& id, const std::string& handlerName) {
  USERPOD_TRY(handler, find(handlerName));
  for (const auto& loop : execLoops_) loop->forget(id);
  // The monitor first: in its cgroup `crun create` may still be at work, when the daemon that asked for it was killed.
  USERPOD_CHECK(node_.removeCgroup("/mon/" + id));
  // The runtime's own directory of the container: without it there is nothing to delete, which saves a process.
  std::string state = handler->stateRoot + "/" + id;
  if (!pathExists(state)) return {};
  auto deleted = runTool(*handler, {"delete", "--force", id});
  if (deleted || !pathExists(state)) return {};
  // A state that was only half written is more than the runtime can read; its processes go with the container's cgroup.
  logWarning("container {}: {}; its state is removed", ofContainer(id), deleted.error());
  return removeTree(state);
}

bool RuntimeImpl::started(const std::string& handlerName, pid_t pid) const {
  auto handler = find(handlerName);
  struct stat program{};
  struct stat running{};
  if (!handler || pid <= 0 || ::stat((*handler)->program.c_str(), &program) < 0 ||
      ::stat(fmt::format("/proc/{}/exe", pid).c_str(), &running) < 0)
    return false;
  return program.st_dev != running.st_dev || program.st_ino != running.st_ino;
}

std::vector<std::pair<std::string, std::string>> RuntimeImpl::containers() const {
  std::vector<std::pair<std::string, std::string>> found;
  std::error_code ignored;
  for (const auto& [name, handler] : handlers_)
    for (const auto& entry : std::filesystem::directory_iterator(handler.stateRoot, ignored))
      if (isHex(entry.path().filename().string())) found.emplace_back(entry.path().filename(), name);
  return found;
}

void RuntimeImpl::exec(const ExecInput& input, std::function<void(Result<ExecResult>)> done) {
  auto handler = find(input.handler);
  if (!handler) return done(std::move(handler).error());
  execLoops_[nextLoop_++ % kExecLoops]->exec(**handler, input, std::move(done));
}

void RuntimeImpl::openExec(const ExecStart& input, std::function<void(Result<ExecStreams>)> started,
                           std::function<void(Result<std::int32_t>)> ended) {
  auto handler = find(input.handler);
  if (!handler) return started(std::move(handler).error());
  execLoops_[nextLoop_++ % kExecLoops]->open(**handler, input, std::move(started), std::move(ended));
}

Result<std::optional<ExitRecord>> readExitFile(const Paths& paths, const std::string& id) {
  auto file = openFile(paths.exits() + "/" + id, O_RDONLY | O_NOFOLLOW);
  if (!file && file.error().sysErrno() == ENOENT) return std::optional<ExitRecord>();
  if (!file) return std::move(file).error();
  USERPOD_TRY(text, readAll(file->get(), 64));
  struct stat info{};
  if (::fstat(file->get(), &info) < 0) return sysError("stat exit file of " + id);
  ExitRecord record;
  auto code = parseNumber(text);
  if (!code) return Error(Code::MonitorFailed, "exit file of container " + id + " holds no number");
  record.code = *code;
  record.finishedAt = static_cast<std::int64_t>(info.st_mtim.tv_sec) * 1'000'000'000 + info.st_mtim.tv_nsec;
  return std::optional<ExitRecord>(record);
}

std::uint64_t oomKills(const NodeInside& node, const std::string& cgroup) {
  auto text = readFile(node.cgroupRoot + cgroup + "/memory.events", 4096);
  if (!text) return 0;
  constexpr std::string_view kKey = "oom_kill ";
  for (const auto& line : split(*text, '\n'))
    if (line.starts_with(kKey)) return std::strtoull(line.c_str() + kKey.size(), nullptr, 10);
  return 0;
}

}  // namespace userpod::oci

#include "daemon/oci/exec.hpp"

#include <fmt/core.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <cerrno>
#include <csignal>
#include <nlohmann/json.hpp>

#include "daemon/oci/exec_session.hpp"
#include "daemon/oci/messages.hpp"
#include "daemon/sys/log.hpp"
#include "daemon/sys/stage.hpp"
#include "daemon/sys/util.hpp"

namespace userpod::oci {
namespace {

constexpr std::size_t kConfigLimit = 16 << 20;
constexpr const char* kNodePid = "/proc/1/ns/pid";
constexpr std::chrono::milliseconds kKillTime{200};
constexpr std::chrono::milliseconds kFirstRetry{5};
constexpr std::chrono::milliseconds kLastRetry{1000};

std::atomic<std::uint64_t> sessionCounter = 0;  // of all loops: cgroups are named by it

Result<UniqueFd> memoryFile(const char* name, std::string_view text) {
  UniqueFd fd(::memfd_create(name, MFD_CLOEXEC));
  if (!fd) return sysError("make a memory file");
  USERPOD_CHECK(writeAll(fd.get(), text));
  return fd;
}

}  // namespace

Result<std::unique_ptr<ExecLoop>> ExecLoop::start(const Paths& paths, const NodeInside& node, int leaf) {
  std::unique_ptr<ExecLoop> self(new ExecLoop(paths, node, leaf));
  USERPOD_TRY(loop, EventLoop::start("exec"));
  self->loop_ = std::move(loop);
  return self;
}

ExecLoop::~ExecLoop() {
  // Those under way are told so: no caller is left waiting.
  loop_->post([this] {
    auto all = sessions_;
    for (const auto& [number, session] : all) session->cancel(Error(Code::Canceled, "userpod is stopping"));
  });
  loop_->shutdown();
}

void ExecLoop::begin(SessionPointer session) {
  loop_->post([session = std::move(session)] { session->begin(); });
}

void ExecLoop::forget(const std::string& id) {
  loop_->post([this, id] { templates_.erase(id); });
}

// Parsed once a container: config.json is mostly the seccomp profile.
Result<ExecLoop::Template> ExecLoop::readTemplate(const std::string& id, const std::string& bundle) {
  if (auto known = templates_.find(id); known != templates_.end()) return known->second;
  USERPOD_TRY(text, readFile(bundle + "/config.json", kConfigLimit));
  auto config = nlohmann::json::parse(text, nullptr, false);
  if (!config.is_object() || !config["process"].is_object() || !config["linux"]["cgroupsPath"].is_string())
    return Error(Code::Internal, "config.json of container " + id + " is damaged; remove the container");
  auto& process = config["process"];
  for (const char* own : {"terminal", "consoleSize", "args"}) process.erase(own);
  Template pattern{process.dump(), config["linux"]["cgroupsPath"].get<std::string>()};
  for (const auto& entry : config["linux"]["namespaces"])
    if (entry.value("type", "") == "pid") pattern.ofNode = entry.value("path", "") == kNodePid;
  templates_[id] = pattern;
  return pattern;
}

void ExecLoop::Session::begin() {
  number_ = ++sessionCounter;
  loop_.sessions_[number_] = shared_from_this();
  auto status = launch();
  if (!status) fail(std::move(status).error());
}

Status ExecLoop::Session::launch() {
  if (command_.words.empty() || command_.words.front().empty())
    return Error(Code::InvalidArgument, "the command to execute is empty; name a program");
  for (const auto& argument : command_.words)
    if (!isUtf8(argument))
      return Error(Code::InvalidArgument, "an argument of the command is not UTF-8, which the OCI runtime needs");
  USERPOD_TRY(pattern, loop_.readTemplate(command_.id, command_.bundle));
  USERPOD_CHECK(makeCgroup(pattern));
  reachStage("exec.cgroup", command_.id);
  // args go in front: the template is an object with at least cwd in it.
  USERPOD_TRY(process, memoryFile("process", "{\"args\":" + nlohmann::json(command_.words).dump() + "," +
                                                 this->process(pattern).substr(1)));
  USERPOD_TRY(log, memoryFile("log", ""));
  log_ = std::move(log);
  SpawnOptions options;
  options.argv = handler_.command();
  options.argv.insert(options.argv.end(), {"--log=/proc/self/fd/4", "exec", "--process=/proc/self/fd/3",
                                           "--cgroup=" + cgroup_.substr(cgroup_.rfind('/') + 1)});
  options.environment = toolEnvironment(loop_.paths_);
  options.descriptors = {{process.get(), 3}, {log_.get(), 4}};
  USERPOD_CHECK(prepare(options));
  if (detached(pattern)) detach(options);
  options.argv.push_back(command_.id);
  options.cgroup = loop_.leaf_;
  options.cgroupNamespace = loop_.node_.cgroupNamespace.get();
  options.directory = "/";
  USERPOD_TRY(child, spawnTool(options));
  child_ = std::move(child);
  childEnds_.clear();
  reachStage("exec.spawned", command_.id);
  USERPOD_CHECK(
      loop_.loop_->watch(child_.pidfd(), EPOLLIN, [self = shared_from_this()](std::uint32_t) { self->childEnded(); }));
  return spawned();
}

Status ExecLoop::Session::makeCgroup(const Template& pattern) {
  std::string path = fmt::format("{}/exec-{}", pattern.cgroup, number_);
  if (::mkdir((loop_.node_.cgroupRoot + path).c_str(), 0755) < 0 && errno != EEXIST) {
    if (errno == ENOENT) return Error(Code::InvalidState, "container " + command_.id + " has ended");
    return sysError("make cgroup " + path);
  }
  cgroup_ = path;
  return {};
}

void ExecLoop::Session::detach(SpawnOptions& options) {
  // A path: runc writes another file beside it and renames that.
  pidFile_ = fmt::format("{}/{}", execDirectory(loop_.paths_), number_);
  options.argv.insert(options.argv.end(), {"--detach", "--pid-file=" + pidFile_});
  options.argv.insert(options.argv.begin(),
                      {USERPOD_LIBEXEC "/userpod-exec", "/proc/self/fd/4", pidFile_, gate(), begun()});
}

void ExecLoop::Session::childEnded() {
  loop_.loop_->unwatch(child_.pidfd());
  auto status = child_.wait();
  child_ = Child();
  reachStage("exec.ended", command_.id);
  loop_.loop_->cancel(timer_);
  if (failure_) return cancel(*failure_);
  if (!status) return fail(std::move(status).error());
  ended(status->code);
}

std::optional<Error> ExecLoop::Session::notStarted(std::int32_t code) const {
  auto words =
      code != 0 ? openFile(fmt::format("/proc/self/fd/{}", log_.get()), O_RDONLY) : Result<UniqueFd>(UniqueFd());
  if (!words || !*words) return std::nullopt;
  std::array<char, 8192> text{};
  ssize_t count = ::read(words->get(), text.data(), text.size());
  if (count <= 0) return std::nullopt;
  return Error(Code::RuntimeFailed,
               handler_.flavour + " exec: " + plainMessage({text.data(), static_cast<std::size_t>(count)}));
}

void ExecLoop::Session::kill(Error why) {
  failure_ = std::move(why);
  loop_.loop_->cancel(timer_);
  killAgain(false);
}

void ExecLoop::Session::killAgain(bool runtimeToo) {
  // The runtime ends by itself when its command has been killed; when it has not got as far as the command yet, or
  // does not end, it is killed too, and then whatever it had started.
  if (runtimeToo) (void)child_.kill(SIGKILL);
  if (auto status = writeFile(loop_.node_.cgroupRoot + cgroup_ + "/cgroup.kill", "1"); !status && !runtimeToo)
    logWarning("exec in {}: {}", ofContainer(command_.id), status.error());
  timer_ = loop_.loop_->runAfter(kKillTime, [self = shared_from_this()] { self->killAgain(true); });
}

void ExecLoop::Session::fail(Error error) {
  failure_ = error;
  cancel(std::move(error));
}

void ExecLoop::Session::cancel(Error error) {
  auto self = shared_from_this();
  release();
  answer(std::move(error));
}

void ExecLoop::Session::release() {
  auto self = shared_from_this();
  loop_.sessions_.erase(number_);
  loop_.loop_->cancel(timer_);
  closeStreams();
  childEnds_.clear();
  if (child_) {
    loop_.loop_->unwatch(child_.pidfd());
    child_ = Child();  // kills and reaps
  }
  if (!pidFile_.empty()) ::unlink(pidFile_.c_str());  // there when userpod-exec was killed
  if (cgroup_.empty()) return;
  if (failure_) (void)writeFile(loop_.node_.cgroupRoot + cgroup_ + "/cgroup.kill", "1");
  removeCgroup(kFirstRetry);
}

// What was killed takes a moment to go. The cgroup stays when the command left somebody behind; it goes with the
// container's.
void ExecLoop::Session::removeCgroup(std::chrono::milliseconds retry) {
  if (::rmdir((loop_.node_.cgroupRoot + cgroup_).c_str()) == 0 || errno != EBUSY || retry > kLastRetry) return;
  loop_.loop_->runAfter(retry, [self = shared_from_this(), retry] { self->removeCgroup(retry * 5); });
}

}  // namespace userpod::oci

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

#include "daemon/oci/messages.hpp"
#include "daemon/sys/log.hpp"
#include "daemon/sys/stage.hpp"
#include "daemon/sys/util.hpp"

namespace userpod::oci {
namespace {

constexpr std::size_t kOutputLimit = 16 << 20;  // a stream; what comes after is read and dropped (CVE-2022-1708)
constexpr std::size_t kConfigLimit = 16 << 20;
constexpr std::chrono::seconds kDrainTime{2};
constexpr const char* kNodePid = "/proc/1/ns/pid";
constexpr std::chrono::milliseconds kKillTime{200};

std::atomic<std::uint64_t> sessionCounter = 0;  // of all loops: cgroups are named by it

Result<UniqueFd> memoryFile(const char* name, std::string_view text) {
  UniqueFd fd(::memfd_create(name, MFD_CLOEXEC));
  if (!fd) return sysError("make a memory file");
  USERPOD_CHECK(writeAll(fd.get(), text));
  return fd;
}

}  // namespace

struct ExecLoop::Session {
  Handler handler;
  ExecInput input;
  std::function<void(Result<ExecResult>)> done;
  std::uint64_t number = 0;
  std::string cgroup;  // of this exec alone: its kill reaches whatever the command has started
  UniqueFd process;    // process.json
  UniqueFd pidFile;    // where userpod-exec reads the command's number
  UniqueFd log;        // the runtime's own words, apart from the command's
  UniqueFd out;
  UniqueFd err;
  Child child;  // the runtime, which waits for the command
  ExecResult result;
  bool exited = false;
  bool timedOut = false;
  EventLoop::TimerId timer = 0;
};

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
    for (const auto& [number, session] : all) fail(session, Error(Code::Canceled, "userpod is stopping"));
  });
  loop_->shutdown();
}

void ExecLoop::exec(const Handler& handler, const ExecInput& input, std::function<void(Result<ExecResult>)> done) {
  auto session = std::make_shared<Session>();
  session->handler = handler;
  session->input = input;
  session->done = std::move(done);
  loop_->post([this, session] {
    session->number = ++sessionCounter;
    sessions_[session->number] = session;
    if (auto status = launch(session); !status) fail(session, std::move(status).error());
  });
}

void ExecLoop::forget(const std::string& id) {
  loop_->post([this, id] { templates_.erase(id); });
}

// Parsed once a container: config.json is mostly the seccomp profile.
Result<ExecLoop::Template> ExecLoop::readTemplate(const ExecInput& input) {
  if (auto known = templates_.find(input.id); known != templates_.end()) return known->second;
  USERPOD_TRY(text, readFile(input.bundle + "/config.json", kConfigLimit));
  auto config = nlohmann::json::parse(text, nullptr, false);
  if (!config.is_object() || !config["process"].is_object() || !config["linux"]["cgroupsPath"].is_string())
    return Error(Code::Internal, "config.json of container " + input.id + " is damaged; remove the container");
  auto& process = config["process"];
  process["terminal"] = false;
  process.erase("consoleSize");
  process.erase("args");
  Template pattern{process.dump(), config["linux"]["cgroupsPath"].get<std::string>()};
  for (const auto& entry : config["linux"]["namespaces"])
    if (entry.value("type", "") == "pid") pattern.ofNode = entry.value("path", "") == kNodePid;
  templates_[input.id] = pattern;
  return pattern;
}

Status ExecLoop::prepareCgroup(const SessionPointer& session, const Template& pattern) {
  std::string path = fmt::format("{}{}/exec-{}", node_.cgroupRoot, pattern.cgroup, session->number);
  if (::mkdir(path.c_str(), 0755) < 0 && errno != EEXIST) return sysError("make cgroup " + path);
  session->cgroup = path;
  return {};
}

// The runtime's command line; where the container has no PID namespace of its own, with userpod-exec in front.
Status ExecLoop::addCommand(const SessionPointer& session, const Template& pattern, SpawnOptions& options) {
  options.argv = session->handler.command();
  options.argv.insert(options.argv.end(), {"--log=/proc/self/fd/4", "exec", "--process=/proc/self/fd/3",
                                           "--cgroup=" + session->cgroup.substr(session->cgroup.rfind('/') + 1)});
  if (pattern.ofNode) {
    USERPOD_TRY(number, memoryFile("pid", ""));
    session->pidFile = std::move(number);
    options.descriptors.emplace_back(session->pidFile.get(), 5);
    options.argv.insert(options.argv.end(), {"--detach", "--pid-file=/proc/self/fd/5"});
    options.argv.insert(options.argv.begin(), {USERPOD_LIBEXEC "/userpod-exec", "/proc/self/fd/4", "/proc/self/fd/5"});
  }
  options.argv.push_back(session->input.id);
  return {};
}

Status ExecLoop::launch(const SessionPointer& session) {
  ExecInput& input = session->input;
  if (input.command.empty() || input.command.front().empty())
    return Error(Code::InvalidArgument, "the command to execute is empty; name a program");
  for (const auto& argument : input.command)
    if (!isUtf8(argument))
      return Error(Code::InvalidArgument, "an argument of the command is not UTF-8, which the OCI runtime needs");
  USERPOD_TRY(pattern, readTemplate(input));
  USERPOD_CHECK(prepareCgroup(session, pattern));
  reachStage("exec.cgroup", input.id);
  // args go in front: the template is an object with at least cwd in it.
  USERPOD_TRY(process, memoryFile("process", "{\"args\":" + nlohmann::json(input.command).dump() + "," +
                                                 pattern.process.substr(1)));
  session->process = std::move(process);
  USERPOD_TRY(log, memoryFile("log", ""));
  session->log = std::move(log);
  USERPOD_TRY(out, makePipe());
  USERPOD_TRY(err, makePipe());
  SpawnOptions options;
  options.environment = toolEnvironment(paths_);
  options.descriptors = {
      {out.write.get(), 1}, {err.write.get(), 2}, {session->process.get(), 3}, {session->log.get(), 4}};
  USERPOD_CHECK(addCommand(session, pattern, options));
  options.cgroup = leaf_;
  options.cgroupNamespace = node_.cgroupNamespace.get();
  options.directory = "/";
  USERPOD_TRY(child, spawnTool(options));
  session->child = std::move(child);
  reachStage("exec.spawned", input.id);
  session->out = std::move(out.read);
  session->err = std::move(err.read);
  session->process.reset();
  return watch(session);
}

Status ExecLoop::watch(const SessionPointer& session) {
  for (int fd : {session->out.get(), session->err.get()})
    if (::fcntl(fd, F_SETFL, O_NONBLOCK) < 0) return sysError("set up a pipe");
  auto add = [&](UniqueFd& pipe, std::string& into) {
    return loop_->watch(pipe.get(), EPOLLIN,
                        [this, session, &pipe, &into](std::uint32_t) { read(session, pipe, into); });
  };
  USERPOD_CHECK(add(session->out, session->result.out));
  USERPOD_CHECK(add(session->err, session->result.err));
  USERPOD_CHECK(loop_->watch(session->child.pidfd(), EPOLLIN, [this, session](std::uint32_t) { ended(session); }));
  if (session->input.timeout.count() > 0)
    session->timer = loop_->runAfter(session->input.timeout, [this, session] { timeOver(session); });
  return {};
}

void ExecLoop::read(const SessionPointer& session, UniqueFd& pipe, std::string& into) {
  std::array<char, 64 << 10> buffer;  // not cleared
  ssize_t count = ::read(pipe.get(), buffer.data(), buffer.size());
  if (count < 0 && (errno == EINTR || errno == EAGAIN)) return;
  if (count > 0) {
    into.append(buffer.data(), std::min(static_cast<std::size_t>(count), kOutputLimit - into.size()));
    return;
  }
  loop_->unwatch(pipe.get());
  pipe.reset();
  if (session->exited && !session->out && !session->err) finish(session);
}

void ExecLoop::ended(const SessionPointer& session) {
  loop_->unwatch(session->child.pidfd());
  auto status = session->child.wait();
  if (!status) return fail(session, std::move(status).error());
  session->exited = true;
  reachStage("exec.ended", session->input.id);
  session->result.exitCode = status->code;
  loop_->cancel(session->timer);
  if (session->timedOut || (!session->out && !session->err)) return finish(session);
  // Somebody that the command left behind may hold a pipe for ever.
  session->timer = loop_->runAfter(kDrainTime, [this, session] { finish(session); });
}

void ExecLoop::timeOver(const SessionPointer& session) {
  // The runtime ends by itself when its command has been killed; when it has not got as far as the command yet, or
  // does not end, it is killed too, and then whatever it had started.
  bool again = session->timedOut;
  session->timedOut = true;
  if (again) (void)session->child.kill(SIGKILL);
  if (auto status = writeFile(session->cgroup + "/cgroup.kill", "1"); !status && !again)
    logWarning("exec in {}: {}", session->input.id, status.error().text());
  session->timer = loop_->runAfter(kKillTime, [this, session] { timeOver(session); });
}

void ExecLoop::finish(const SessionPointer& session) {
  if (session->timedOut) {
    auto seconds = static_cast<double>(session->input.timeout.count()) / 1000;
    return fail(session,
                Error(Code::Timeout, fmt::format("the command did not end within {} s and was killed", seconds)));
  }
  if (session->result.exitCode != 0) {
    auto words = openFile(fmt::format("/proc/self/fd/{}", session->log.get()), O_RDONLY);
    std::array<char, 8192> text{};
    ssize_t count = words ? ::read(words->get(), text.data(), text.size()) : -1;
    if (count > 0)
      return fail(session, Error(Code::RuntimeFailed,
                                 session->handler.flavour +
                                     " exec: " + plainMessage({text.data(), static_cast<std::size_t>(count)})));
  }
  release(session);
  session->done(std::move(session->result));
}

void ExecLoop::fail(const SessionPointer& session, Error error) {
  release(session);
  session->done(std::move(error));
}

// Ends a session at whatever point it is; what still runs is killed.
void ExecLoop::release(const SessionPointer& session) {
  sessions_.erase(session->number);
  loop_->cancel(session->timer);
  for (UniqueFd* pipe : {&session->out, &session->err})
    if (*pipe) {
      loop_->unwatch(pipe->get());
      pipe->reset();
    }
  if (session->child) {
    loop_->unwatch(session->child.pidfd());
    session->child = Child();  // kills and reaps
  }
  if (!session->cgroup.empty()) {
    if (session->timedOut) (void)writeFile(session->cgroup + "/cgroup.kill", "1");
    // Stays when the command left somebody behind; it goes with the container's.
    (void)::rmdir(session->cgroup.c_str());
  }
}

}  // namespace userpod::oci

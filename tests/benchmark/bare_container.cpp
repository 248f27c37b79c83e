#include "tests/benchmark/bare_container.hpp"

#include <fmt/core.h>
#include <fmt/ranges.h>
#include <poll.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <sys/inotify.h>
#include <sys/mount.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <chrono>
#include <cstring>

#include "daemon/sys/mount.hpp"
#include "daemon/sys/util.hpp"

namespace userpod::bench {
namespace {

constexpr std::chrono::seconds kStopTime{10};

std::vector<std::string> toolEnvironment() {
  return {"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"};
}

// The superblock options of the overlay mounted at `target`. Spaces and colons in our paths would be escaped: there are
// none.
Result<std::string> overlayOptions(const std::string& target) {
  USERPOD_TRY(table, readFile("/proc/self/mountinfo", 64 << 20));
  for (const auto& line : split(table, '\n')) {
    auto fields = split(line, ' ');
    auto dash = std::find(fields.begin(), fields.end(), "-");
    if (fields.size() < 5 || fields[4] != target || fields.end() - dash < 4) continue;
    if (*(dash + 1) == "overlay") return *(dash + 3);
  }
  return Error(Code::StorageFailed,
               "no overlay is mounted at " + target + ": the bare part has nothing to compare with");
}

// conmon answers {"data": pid}, or {"data": -1, "message": ...}, in one line and keeps the pipe open.
Result<pid_t> readAnswer(int fd) {
  std::string answer;
  std::array<char, 4096> buffer{};
  while (answer.find('\n') == std::string::npos) {
    ssize_t count = ::read(fd, buffer.data(), buffer.size());
    if (count < 0 && errno == EINTR) continue;
    if (count <= 0) break;
    answer.append(buffer.data(), static_cast<std::size_t>(count));
  }
  auto json = nlohmann::json::parse(answer, nullptr, false);
  if (!json.is_object() || !json.contains("data") || !json["data"].is_number_integer() || json["data"].get<int>() <= 0)
    return Error(Code::MonitorFailed, "bare conmon: " + (answer.empty() ? "no answer" : answer));
  return json["data"].get<pid_t>();
}

}  // namespace

Result<ContainerModel> modelOf(nlohmann::json spec) {
  ContainerModel model{std::move(spec), {}};
  if (!model.spec.contains("root") || !model.spec["root"].contains("path"))
    return Error(Code::Internal, "the runtimeSpec of a container has no root path");
  std::string root = model.spec["root"]["path"];
  USERPOD_TRY(options, overlayOptions(root));
  // "lowerdir=a:b" of mount(2), or "lowerdir+=a,lowerdir+=b" of the newer calls.
  for (const auto& option : split(options, ',')) {
    if (option.starts_with("lowerdir+=")) model.lowerLayers.push_back(option.substr(std::strlen("lowerdir+=")));
    if (option.starts_with("lowerdir=")) model.lowerLayers = split(option.substr(std::strlen("lowerdir=")), ':');
  }
  // Short names are relative to the working directory of the mount: the daemon's data directory or its layers.
  std::string data = root.substr(0, root.find("/containers/"));
  for (auto& layer : model.lowerLayers) {
    for (const auto& base : {data + "/layers/", data + "/"})
      if (!layer.starts_with("/") && pathExists(base + layer)) layer = base + layer;
    if (!pathExists(layer)) return Error(Code::StorageFailed, "lower layer " + layer + " of " + root + " is not found");
  }
  if (model.lowerLayers.empty()) return Error(Code::StorageFailed, "the overlay at " + root + " shows no lower layers");
  return model;
}

Result<ContainerTools> findTools(const Paths& paths, const Settings& settings) {
  ContainerTools tools;
  tools.crun = paths.node + "/bin/" + settings.defaultRuntime;
  if (!pathExists(tools.crun))
    return Error(Code::NotReady, tools.crun + " is not there: has the daemon started in this node?");
  tools.conmon = settings.conmon;
  if (!tools.conmon.empty()) return tools;
  USERPOD_TRY(found, findProgram("conmon"));
  tools.conmon = found;
  return tools;
}

BareContainers::BareContainers(const NodeInside& node, ContainerTools tools, ContainerModel model, std::string live,
                               std::string disk)
    : node_(node), tools_(std::move(tools)), model_(std::move(model)), live_(std::move(live)), disk_(std::move(disk)) {}

Result<std::unique_ptr<ExitWatch>> ExitWatch::open(const std::string& directory) {
  UniqueFd watch(::inotify_init1(IN_CLOEXEC | IN_NONBLOCK));
  UniqueFd wake(::eventfd(0, EFD_CLOEXEC));
  // conmon writes a temporary file and renames it.
  if (!watch || !wake || ::inotify_add_watch(watch.get(), directory.c_str(), IN_MOVED_TO) < 0)
    return sysError("watch the exit files");
  return std::unique_ptr<ExitWatch>(new ExitWatch(std::move(watch), std::move(wake)));
}

ExitWatch::ExitWatch(UniqueFd watch, UniqueFd wake)
    : watch_(std::move(watch)), wake_(std::move(wake)), thread_([this] { run(); }) {}

ExitWatch::~ExitWatch() {
  (void)::eventfd_write(wake_.get(), 1);
  thread_.join();
}

void ExitWatch::run() {
  alignas(inotify_event) std::array<char, 4096> buffer{};
  while (true) {
    std::array<pollfd, 2> entries = {pollfd{watch_.get(), POLLIN, 0}, pollfd{wake_.get(), POLLIN, 0}};
    (void)::poll(entries.data(), entries.size(), -1);
    if (entries[1].revents != 0) return;
    ssize_t count = ::read(watch_.get(), buffer.data(), buffer.size());
    std::lock_guard lock(mutex_);
    for (ssize_t at = 0; at < count;) {
      const auto* event = reinterpret_cast<const inotify_event*>(buffer.data() + at);
      if (event->len > 0) seen_.insert(event->name);
      at += static_cast<ssize_t>(sizeof(inotify_event) + event->len);
    }
    changed_.notify_all();
  }
}

Status ExitWatch::wait(const std::string& name) {
  std::unique_lock lock(mutex_);
  if (changed_.wait_for(lock, kStopTime, [&] { return seen_.erase(name) > 0; })) return {};
  return Error(Code::Timeout, "the bare container " + name + " did not end at SIGTERM");
}

Result<std::unique_ptr<BareContainers>> BareContainers::open(const NodeInside& node, ContainerTools tools,
                                                             ContainerModel model, std::string live, std::string disk) {
  std::unique_ptr<BareContainers> made(
      new BareContainers(node, std::move(tools), std::move(model), std::move(live), std::move(disk)));
  for (const auto& directory : {made->live_ + "/exits", made->live_ + "/bundles", made->live_ + "/oci", made->disk_})
    USERPOD_CHECK(makeDirectories(directory, 0700));
  USERPOD_TRY(cgroup, node.makeCgroup(std::string(kBareCgroup) + "/tools"));
  made->toolsCgroup_ = std::move(cgroup);
  USERPOD_TRY(exits, ExitWatch::open(made->live_ + "/exits"));
  made->exits_ = std::move(exits);
  return made;
}

std::vector<std::string> BareContainers::crun(std::vector<std::string> arguments) const {
  std::vector<std::string> all{tools_.crun, "--root=" + live_ + "/oci", "--cgroup-manager=cgroupfs"};
  all.insert(all.end(), arguments.begin(), arguments.end());
  return all;
}

Result<Child> BareContainers::startCrun(std::vector<std::string> arguments, int out) const {
  SpawnOptions options;
  options.argv = crun(std::move(arguments));
  options.environment = toolEnvironment();
  options.cgroup = toolsCgroup_.get();
  options.cgroupNamespace = node_.cgroupNamespace.get();
  options.directory = "/";
  options.descriptors = {{2, 2}};
  if (out >= 0) options.descriptors.emplace_back(out, 1);
  return spawn(options);
}

Status BareContainers::runCrun(std::vector<std::string> arguments) const {
  USERPOD_TRY(child, startCrun(arguments));
  USERPOD_TRY(status, child.wait());
  if (status.code == 0) return {};
  return Error(Code::RuntimeFailed,
               fmt::format("bare crun {}: exit status {}", fmt::join(arguments, " "), status.code));
}

Result<BareContainer> BareContainers::prepare(unsigned number,
                                              const std::vector<std::pair<std::string, std::string>>& pins) const {
  for (const char* name : {"/upper", "/work", "/merged"}) USERPOD_CHECK(makeDirectories(writable(number) + name));
  USERPOD_CHECK(makeDirectories(bundle(number), 0700));
  auto spec = model_.spec;
  spec["root"]["path"] = writable(number) + "/merged";
  spec["linux"]["cgroupsPath"] = fmt::format("{}/pods/{}", kBareCgroup, number);
  for (auto& entry : spec["linux"]["namespaces"])
    for (const auto& [name, path] : pins)
      if (entry["type"] == (name == "net" ? "network" : name)) entry["path"] = path;
  USERPOD_CHECK(writeFile(bundle(number) + "/config.json", spec.dump()));
  USERPOD_TRY(cgroup, node_.makeCgroup(fmt::format("{}/mon/{}", kBareCgroup, number)));
  return BareContainer{number, std::move(cgroup), 0};
}

SpawnOptions BareContainers::monitorOptions(const BareContainer& container) const {
  const unsigned number = container.number;
  SpawnOptions options;
  options.argv = {tools_.conmon,
                  "--api-version=1",
                  "--cid=" + id(number),
                  "--cuuid=" + id(number),
                  "--name=" + id(number),
                  "--runtime=" + tools_.crun,
                  "--bundle=" + bundle(number),
                  "--container-pidfile=" + bundle(number) + "/pid",
                  "--conmon-pidfile=" + bundle(number) + "/conmon.pid",
                  "--exit-dir=" + live_ + "/exits",
                  "--log-path=k8s-file:" + disk_ + "/" + id(number) + "/log",
                  "--log-level=error",
                  "--full-attach",
                  "--no-new-keyring",
                  "--no-sync-log"};
  for (const auto& argument : crun({}))
    if (argument != tools_.crun) options.argv.push_back("--runtime-arg=" + argument);
  options.environment = toolEnvironment();
  options.environment.emplace_back("_OCI_SYNCPIPE=3");
  options.cgroup = container.monitorCgroup.get();
  options.cgroupNamespace = node_.cgroupNamespace.get();
  options.directory = bundle(number);
  return options;
}

Status BareContainers::create(BareContainer& container) const {
  USERPOD_TRY(answers, makePipe());
  auto options = monitorOptions(container);
  options.descriptors = {{answers.write.get(), 3}};
  USERPOD_TRY(first, spawn(options));
  answers.write.reset();
  USERPOD_TRY(pid, readAnswer(answers.read.get()));
  container.process = pid;
  USERPOD_TRY(ended, first.wait());  // its monitor has gone into the background
  if (ended.code != 0) return Error(Code::MonitorFailed, fmt::format("bare conmon: exit status {}", ended.code));
  return {};
}

Status BareContainers::start(BareContainer& container) const {
  const unsigned number = container.number;
  std::string options = fmt::format("lowerdir={},upperdir={}/upper,workdir={}/work,userxattr",
                                    fmt::join(model_.lowerLayers, ":"), writable(number), writable(number));
  USERPOD_CHECK(mountFilesystem("overlay", "overlay", writable(number) + "/merged", 0, options));
  USERPOD_CHECK(create(container));
  return runCrun({"start", id(number)});
}

Status BareContainers::exec(const BareContainer& container, const std::vector<std::string>& command) const {
  return runCrun(execArguments(container, command));
}

Result<Child> BareContainers::startExec(const BareContainer& container, const std::vector<std::string>& command,
                                        int out) const {
  return startCrun(execArguments(container, command), out);
}

std::vector<std::string> BareContainers::execArguments(const BareContainer& container,
                                                       const std::vector<std::string>& command) {
  std::vector<std::string> arguments{"exec", id(container.number)};
  arguments.insert(arguments.end(), command.begin(), command.end());
  return arguments;
}

Status BareContainers::stop(const BareContainer& container) const {
  USERPOD_TRY(pidfd, openPidfd(container.process));
  USERPOD_CHECK(signalPidfd(pidfd.get(), SIGTERM));
  USERPOD_CHECK(exits_->wait(id(container.number)));
  USERPOD_CHECK(runCrun({"delete", id(container.number)}));
  return unmountDetached(writable(container.number) + "/merged");
}

Status BareContainers::remove(const BareContainer& container) const {
  const unsigned number = container.number;
  USERPOD_CHECK(node_.removeCgroup(fmt::format("{}/mon/{}", kBareCgroup, number)));
  USERPOD_CHECK(removeTree(bundle(number)));
  USERPOD_CHECK(removeTree(live_ + "/exits/" + id(number)));
  return removeTree(writable(number));
}

}  // namespace userpod::bench

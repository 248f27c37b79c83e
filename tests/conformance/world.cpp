#include "tests/conformance/world.hpp"

#include <unistd.h>

#include <atomic>
#include <csignal>
#include <filesystem>
#include <fstream>
#include <mutex>
#include <regex>
#include <sstream>
#include <thread>

namespace userpod::conformance {
namespace fs = std::filesystem;

namespace {

constexpr milliseconds kPoll{15};

// What a destructor could not take away is a failure of the test, not an exception.
template <typename Remove>
void removeAtEnd(const std::string& what, Remove&& remove) {
  try {
    remove();
  } catch (const std::exception& e) {
    ADD_FAILURE() << what << " could not be removed: " << e.what();
  }
}

}  // namespace

void waitUntil(const std::function<bool()>& condition, const std::string& what, milliseconds time) {
  auto end = std::chrono::steady_clock::now() + patience(time);
  while (!condition()) {
    if (std::chrono::steady_clock::now() > end)
      throw std::runtime_error("not within " + std::to_string(patience(time).count()) + " ms: " + what);
    std::this_thread::sleep_for(kPoll);
  }
}

std::string imageName(const std::string& name) {
  return options().registry + "/" + name;
}

const std::string& image(const std::string& name) {
  static std::mutex mutex;
  static std::map<std::string, std::string> ids;
  std::lock_guard lock(mutex);
  auto& id = ids[name];
  if (id.empty())
    id = call(with<v1::PullImageRequest>([&](auto& r) { r.mutable_image()->set_image(imageName(name)); })).image_ref();
  return id;
}

std::string uniqueName(const std::string& stem) {
  static std::atomic<int> next = 0;
  return stem + "-" + std::to_string(getpid()) + "-" + std::to_string(next++);
}

std::string scratchDirectory(const std::string& stem) {
  auto path = options().scratch + "/" + uniqueName(stem);
  fs::create_directories(path);
  return path;
}

std::string readFile(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) throw std::runtime_error("cannot read " + path);
  std::string text((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
  if (file.bad()) throw std::runtime_error("cannot read " + path);
  return text;
}

void writeFile(const std::string& path, const std::string& text) {
  std::ofstream file(path, std::ios::binary);
  if (!(file << text) || !file.flush()) throw std::runtime_error("cannot write " + path);
}

v1::PodSandboxConfig defaultPod() {
  v1::PodSandboxConfig config;
  auto name = uniqueName("pod");
  config.mutable_metadata()->set_name(name);
  config.mutable_metadata()->set_uid(name + "-uid");
  config.mutable_metadata()->set_namespace_("conformance");
  config.set_log_directory(options().scratch + "/logs/" + name);
  (*config.mutable_labels())[kLabel] = "1";
  namespacesOf(config)->set_pid(v1::CONTAINER);
  return config;
}

std::string runPod(const v1::PodSandboxConfig& config, const std::string& handler) {
  v1::RunPodSandboxRequest request;
  *request.mutable_config() = config;
  request.set_runtime_handler(handler);
  return call(request).pod_sandbox_id();
}

void stopPod(const std::string& id) {
  call(ofPod<v1::StopPodSandboxRequest>(id));
}

void removePod(const std::string& id) {
  call(ofPod<v1::RemovePodSandboxRequest>(id));
}

v1::PodSandboxStatus podStatus(const std::string& id) {
  return call(ofPod<v1::PodSandboxStatusRequest>(id)).status();
}

Pod::Pod(const v1::PodSandboxConfig& config, const std::string& handler)
    : config_(config), id_(runPod(config_, handler)) {}

// Stopped first, as containerd 1.6 does not remove all of a running one.
Pod::~Pod() {
  removeAtEnd("pod " + id_, [&] {
    auto containers =
        call(with<v1::ListContainersRequest>([&](auto& r) { r.mutable_filter()->set_pod_sandbox_id(id_); }));
    for (const auto& container : containers.containers()) removeContainer(container.id());
    stop();
    remove();
  });
}

v1::ContainerConfig defaultContainer(const v1::PodSandboxConfig& pod) {
  v1::ContainerConfig config;
  auto name = uniqueName("container");
  config.mutable_metadata()->set_name(name);
  config.mutable_image()->set_image(busybox());
  config.set_log_path(name + ".log");
  (*config.mutable_labels())[kLabel] = "1";
  shell("trap 'exit 0' TERM; echo up; sleep 3600 & wait")(config);
  *securityOf(config)->mutable_namespace_options() = pod.linux().security_context().namespace_options();
  return config;
}

std::function<void(v1::ContainerConfig&)> command(const std::vector<std::string>& words) {
  return [words](v1::ContainerConfig& config) {
    config.clear_command();
    config.clear_args();
    for (const auto& word : words) config.add_command(word);
  };
}

std::function<void(v1::ContainerConfig&)> shell(const std::string& script) {
  return command({"/bin/sh", "-c", script});
}

v1::CreateContainerRequest createRequest(const Pod& pod, const v1::ContainerConfig& config) {
  v1::CreateContainerRequest request;
  request.set_pod_sandbox_id(pod.id());
  *request.mutable_config() = config;
  *request.mutable_sandbox_config() = pod.config();
  return request;
}

std::string createContainer(const Pod& pod, const v1::ContainerConfig& config) {
  return call(createRequest(pod, config)).container_id();
}

void startContainer(const std::string& id) {
  call(ofContainer<v1::StartContainerRequest>(id));
}

void stopContainer(const std::string& id, int grace, seconds deadline) {
  auto request = with<v1::StopContainerRequest>([&](auto& r) {
    r.set_container_id(id);
    r.set_timeout(grace);
  });
  call(request, deadline + seconds(grace));
}

void removeContainer(const std::string& id) {
  call(ofContainer<v1::RemoveContainerRequest>(id));
}

v1::ContainerStatus containerStatus(const std::string& id) {
  return call(ofContainer<v1::ContainerStatusRequest>(id)).status();
}

Container::Container(const Pod& pod, v1::ContainerConfig config, Start start)
    : config_(std::move(config)),
      id_(createContainer(pod, config_)),
      logPath_(pod.config().log_directory() + "/" + config_.log_path()) {
  if (start == Start::No) return;
  try {
    startContainer(id_);
  } catch (...) {
    removeAtEnd("container " + id_, [&] { remove(); });
    throw;
  }
}

Container::Container(Container&& other) noexcept
    : config_(std::move(other.config_)),
      id_(std::exchange(other.id_, std::string())),
      logPath_(std::move(other.logPath_)) {}

Container::~Container() {
  if (!id_.empty()) removeAtEnd("container " + id_, [&] { remove(); });
}

v1::ContainerStatus Container::ended(milliseconds time) const {
  v1::ContainerStatus last;
  auto isOver = [&] { return (last = status()).state() == v1::CONTAINER_EXITED; };
  waitUntil(isOver, "the end of " + config_.metadata().name(), time);
  return last;
}

const Container& Container::waitForLine(const std::string& text, milliseconds time) const {
  auto isThere = [&] {
    std::error_code missing;
    if (!fs::exists(logPath_, missing)) return false;
    for (const auto& line : log())
      if (line.text == text) return true;
    return false;
  };
  waitUntil(isThere, "the line '" + text + "' in " + logPath_, time);
  return *this;
}

Output Container::execWords(const std::vector<std::string>& words, int timeout) const {
  auto request = with<v1::ExecSyncRequest>([&](auto& r) {
    r.set_container_id(id_);
    for (const auto& word : words) r.add_cmd(word);
    r.set_timeout(timeout);
  });
  auto answer = call(request, kCallTime + seconds(timeout));
  return {answer.stdout(), answer.stderr(), answer.exit_code()};
}

Output Container::exec(const std::string& script, int timeout) const {
  return execWords({"/bin/sh", "-c", script}, timeout);
}

std::string Container::text(const std::string& script) const {
  auto output = exec(script);
  if (output.code != 0)
    throw std::runtime_error("'" + script + "' in the container: status " + std::to_string(output.code) + ": " +
                             output.err + output.out);
  if (!output.out.empty() && output.out.back() == '\n') output.out.pop_back();
  return output.out;
}

nlohmann::json Container::info() const {
  auto request = with<v1::ContainerStatusRequest>([&](auto& r) {
    r.set_container_id(id_);
    r.set_verbose(true);
  });
  auto answer = call(request);
  auto found = answer.info().find("info");
  return found == answer.info().end() ? nlohmann::json() : nlohmann::json::parse(found->second);
}

// userpod names the pid of the host as "pid", and as "nodePid" the one that is seen from where its pods live.
pid_t Container::pid() const {
  auto shown = info();
  for (const auto* name : {"nodePid", "pid"})
    if (shown.contains(name)) return shown[name].get<pid_t>();
  throw std::runtime_error("the verbose status has no pid: " + shown.dump());
}

std::vector<LogLine> readLog(const std::string& path) {
  static const std::regex format(
      R"((\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d{1,9})?(?:Z|[+-]\d\d:\d\d)) (stdout|stderr) (F|P) ?)");
  std::vector<LogLine> lines;
  std::istringstream text(readFile(path));
  for (std::string line; std::getline(text, line);) {
    if (text.eof()) break;  // being written
    std::smatch match;
    if (!std::regex_search(line, match, format, std::regex_constants::match_continuous))
      throw std::runtime_error("not a line of a log: " + line.substr(0, 200));
    lines.push_back({match[1], match[2], match[3], line.substr(static_cast<std::size_t>(match.length()))});
  }
  return lines;
}

std::string logText(const std::vector<LogLine>& lines, const std::string& stream) {
  std::string text;
  for (const auto& line : lines)
    if (line.stream == stream) text += line.text + (line.tag == "F" ? "\n" : "");
  return text;
}

Ended runToEnd(const Pod& pod, const v1::ContainerConfig& config) {
  Container container(pod, config, Start::Yes);
  Ended result{container.ended(), container.log(), {}, {}};
  result.out = logText(result.log);
  result.err = logText(result.log, "stderr");
  return result;
}

std::vector<pid_t> processesWith(const std::string& text) {
  std::vector<pid_t> found;
  for (const auto& entry : fs::directory_iterator("/proc")) {
    auto name = entry.path().filename().string();
    if (name.find_first_not_of("0123456789") != std::string::npos) continue;
    std::string words;
    try {
      words = readFile(entry.path() / "cmdline");
    } catch (const std::exception&) {  // it has ended meanwhile
      continue;
    }
    if (words.find(text) != std::string::npos && std::stoi(name) != getpid()) found.push_back(std::stoi(name));
  }
  return found;
}

std::string cgroupOf(pid_t pid) {
  std::istringstream lines(readFile("/proc/" + std::to_string(pid) + "/cgroup"));
  for (std::string line; std::getline(lines, line);)
    if (line.rfind("0::", 0) == 0) return "/sys/fs/cgroup" + line.substr(3);
  throw std::runtime_error("no control group of version 2 of process " + std::to_string(pid));
}

bool hasController(const Container& container, const std::string& name) {
  std::istringstream names(readFile(cgroupOf(container.pid()) + "/cgroup.controllers"));
  for (std::string one; names >> one;)
    if (one == name) return true;
  return false;
}

namespace {

void signalProcess(pid_t pid, int signal) {
  if (pid <= 1) throw std::runtime_error("no process of a container has the number " + std::to_string(pid));
  kill(pid, signal);
}

}  // namespace

void killProcess(pid_t pid) {
  signalProcess(pid, SIGKILL);
}

Suspended::Suspended(pid_t pid) : pid_(pid) {
  signalProcess(pid, SIGSTOP);
}

void Suspended::resume() {
  if (pid_ > 1) kill(std::exchange(pid_, 0), SIGCONT);
}

pid_t parentOf(pid_t pid) {
  auto text = readFile("/proc/" + std::to_string(pid) + "/stat");
  return std::stoi(text.substr(text.rfind(')') + 4));  // "PID (NAME) STATE PPID ..."
}

std::string namespaceOf(pid_t pid, const std::string& name) {
  return fs::read_symlink("/proc/" + std::to_string(pid) + "/ns/" + name).string();
}

}  // namespace userpod::conformance

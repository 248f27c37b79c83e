// Pods, containers, their output and their processes, as the conformance tests use them. What a test makes goes with
// its objects. All throw (CallFailed, std::runtime_error): gtest tells of it as a failure of the test.
#pragma once

#include <sys/types.h>

#include <concepts>
#include <functional>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "tests/conformance/cri.hpp"

namespace userpod::conformance {

// Label of all pods and containers that the suite makes.
inline constexpr const char* kLabel = "org.userpod1.conformance";

// An id that nothing has.
inline const std::string kUnknown(64, 'f');

// Polls until the condition is true, and throws by name after the time.
void waitUntil(const std::function<bool()>& condition, const std::string& what, milliseconds time = seconds(10));

// The id of an image of the test registry, pulled when first asked for: image("test/busybox:1").
const std::string& image(const std::string& name);
std::string imageName(const std::string& name);  // with the registry
inline const std::string& busybox() {
  return image("test/busybox:1");
}

// A name that no other has: of this run, in all its processes.
std::string uniqueName(const std::string& stem);
// A new directory on the host, seen by the runtime under the same path.
std::string scratchDirectory(const std::string& stem = "dir");
// Of a file of the host, whole; throws when it cannot be read.
std::string readFile(const std::string& path);
void writeFile(const std::string& path, const std::string& text);

// ---- Pods

// A pod with a name of its own, a log directory, namespaces as kubelet asks by default (a PID namespace for each
// container). The edits are functions of v1::PodSandboxConfig&.
v1::PodSandboxConfig defaultPod();
template <std::invocable<v1::PodSandboxConfig&>... Edits>
v1::PodSandboxConfig podConfig(Edits&&... edits) {
  auto config = defaultPod();
  (edits(config), ...);
  return config;
}
inline v1::NamespaceOption* namespacesOf(v1::PodSandboxConfig& config) {
  return config.mutable_linux()->mutable_security_context()->mutable_namespace_options();
}
std::string runPod(const v1::PodSandboxConfig& config, const std::string& handler = "");  // its id
void stopPod(const std::string& id);
void removePod(const std::string& id);
v1::PodSandboxStatus podStatus(const std::string& id);

// A running pod; removed with all in it at the end.
class Pod {
 public:
  template <std::invocable<v1::PodSandboxConfig&>... Edits>
  explicit Pod(Edits&&... edits) : Pod(podConfig(std::forward<Edits>(edits)...), std::string()) {}
  Pod(const v1::PodSandboxConfig& config, const std::string& handler);
  ~Pod();
  Pod(const Pod&) = delete;
  Pod& operator=(const Pod&) = delete;

  const std::string& id() const { return id_; }
  const v1::PodSandboxConfig& config() const { return config_; }
  v1::PodSandboxStatus status() const { return podStatus(id_); }
  void stop() const { stopPod(id_); }
  void remove() const { removePod(id_); }

 private:
  v1::PodSandboxConfig config_;
  std::string id_;
};

// ---- Containers

// A container that waits, and ends with 0 at SIGTERM; it writes "up" when it does. The namespaces of its pod, an image
// with busybox, a log. The edits are functions of v1::ContainerConfig&.
v1::ContainerConfig defaultContainer(const v1::PodSandboxConfig& pod);
template <std::invocable<v1::ContainerConfig&>... Edits>
v1::ContainerConfig containerConfig(const Pod& pod, Edits&&... edits) {
  auto config = defaultContainer(pod.config());
  (edits(config), ...);
  return config;
}
// Edits: the command, a shell script; exactly these words.
std::function<void(v1::ContainerConfig&)> shell(const std::string& script);
std::function<void(v1::ContainerConfig&)> command(const std::vector<std::string>& words);
inline v1::LinuxContainerSecurityContext* securityOf(v1::ContainerConfig& config) {
  return config.mutable_linux()->mutable_security_context();
}

v1::CreateContainerRequest createRequest(const Pod& pod, const v1::ContainerConfig& config);
std::string createContainer(const Pod& pod, const v1::ContainerConfig& config);  // its id
void startContainer(const std::string& id);
void stopContainer(const std::string& id, int grace = 0, seconds deadline = kCallTime);
void removeContainer(const std::string& id);
v1::ContainerStatus containerStatus(const std::string& id);

struct Output {
  std::string out;
  std::string err;
  int code = -1;
};

struct LogLine {
  std::string time;    // RFC 3339
  std::string stream;  // stdout, stderr
  std::string tag;     // F, P
  std::string text;
};
// Every line must be in the format of the CRI, or this throws.
std::vector<LogLine> readLog(const std::string& path);
// The text of one stream, partial lines joined.
std::string logText(const std::vector<LogLine>& lines, const std::string& stream = "stdout");

enum class Start { Yes, No };

class Container {
 public:
  // Made and started.
  template <std::invocable<v1::ContainerConfig&>... Edits>
  explicit Container(const Pod& pod, Edits&&... edits)
      : Container(pod, containerConfig(pod, std::forward<Edits>(edits)...), Start::Yes) {}
  Container(const Pod& pod, v1::ContainerConfig config, Start start);
  // Made, not started.
  template <std::invocable<v1::ContainerConfig&>... Edits>
  static Container created(const Pod& pod, Edits&&... edits) {
    return Container(pod, containerConfig(pod, std::forward<Edits>(edits)...), Start::No);
  }
  ~Container();
  Container(Container&& other) noexcept;
  Container& operator=(Container&&) = delete;

  const std::string& id() const { return id_; }
  const v1::ContainerConfig& config() const { return config_; }
  v1::ContainerStatus status() const { return containerStatus(id_); }
  v1::ContainerState state() const { return status().state(); }
  void start() const { startContainer(id_); }
  void stop(int grace = 0) const { stopContainer(id_, grace); }
  void remove() const { removeContainer(id_); }

  // Waits for the end; the last status.
  v1::ContainerStatus ended(milliseconds time = seconds(20)) const;
  std::vector<LogLine> log() const { return readLog(logPath_); }
  std::string out() const { return logText(log()); }
  const std::string& logPath() const { return logPath_; }
  // Until a line of the log is this text. Returns the container, to be chained.
  const Container& waitForLine(const std::string& text, milliseconds time = seconds(10)) const;
  const Container& up() const { return waitForLine("up"); }

  // A shell script by ExecSync. timeout: the message's own, in seconds.
  Output exec(const std::string& script, int timeout = 0) const;
  Output execWords(const std::vector<std::string>& words, int timeout = 0) const;
  // Its standard output, without the last newline; a status but 0 is an error.
  std::string text(const std::string& script) const;

  nlohmann::json info() const;  // of the verbose status: the JSON under "info"; empty where there is none
  // Its first process, as this process sees it: the suite must run where the runtime's pids mean something.
  pid_t pid() const;

 private:
  v1::ContainerConfig config_;
  std::string id_;
  std::string logPath_;
};

struct Ended {
  v1::ContainerStatus status;
  std::vector<LogLine> log;
  std::string out;
  std::string err;
};
// Makes a container, starts it, waits for its end, and takes it away.
Ended runToEnd(const Pod& pod, const v1::ContainerConfig& config);
template <std::invocable<v1::ContainerConfig&>... Edits>
Ended runToEnd(const Pod& pod, Edits&&... edits) {
  return runToEnd(pod, containerConfig(pod, std::forward<Edits>(edits)...));
}

// ---- What is seen without the CRI

// Processes whose command line has this text, zombies left out.
std::vector<pid_t> processesWith(const std::string& text);
// Its control group below /sys/fs/cgroup, as a path that can be read here.
std::string cgroupOf(pid_t pid);
// The controllers that a container's control group has.
bool hasController(const Container& container, const std::string& name);
// Its parent: of a container's first process the monitor.
pid_t parentOf(pid_t pid);
// SIGKILL; throws for 0 and 1, which would be this process's group or all that runs here.
void killProcess(pid_t pid);
// A process that stands still until resume() or the object's end.
class Suspended {
 public:
  explicit Suspended(pid_t pid);  // throws for 0 and 1, as killProcess
  ~Suspended() { resume(); }
  Suspended(const Suspended&) = delete;
  Suspended& operator=(const Suspended&) = delete;
  void resume();

 private:
  pid_t pid_;
};
// The link /proc/PID/ns/NAME.
std::string namespaceOf(pid_t pid, const std::string& name);

}  // namespace userpod::conformance

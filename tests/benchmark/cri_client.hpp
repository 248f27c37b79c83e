// The product's side: the CRI calls of the benchmark, on the user socket. Blocking; any thread.
#pragma once

#include <sys/types.h>

#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

#include "daemon/sys/error.hpp"

namespace userpod::bench {

inline constexpr std::uint16_t kServedPort = 80;  // of a pod with a host port

struct Pod {
  std::string id;
  std::string name;
};

// Pods carry a label of the benchmark's own; removeAll() takes away every pod with it, whoever made it.
// Errors carry the call's name, the status code's number and the daemon's text.
class Client {
 public:
  // The daemon must have both RuntimeReady and NetworkReady within half a minute.
  static Result<std::unique_ptr<Client>> connect(const std::string& socket);
  virtual ~Client() = default;

  virtual Result<std::string> podAddress(const Pod& pod) = 0;
  // With a host port, if it is not 0: TCP, to kServedPort.
  virtual Result<Pod> runPod(const std::string& name, bool sharedPid = false, std::uint16_t hostPort = 0) = 0;
  virtual Status stopPod(const Pod& pod) = 0;
  virtual Status removePod(const Pod& pod) = 0;
  // A container of the image, with the image's own command. stubborn: with a stop signal that does not end it.
  virtual Result<std::string> createContainer(const Pod& pod, const std::string& name, const std::string& image,
                                              bool stubborn = false) = 0;
  virtual Status startContainer(const std::string& id) = 0;
  virtual Status stopContainer(const std::string& id, std::int64_t grace = 10) = 0;  // seconds
  virtual Status removeContainer(const std::string& id) = 0;
  virtual Status exec(const std::string& id,
                      const std::vector<std::string>& command) = 0;  // a status but 0 is an error
  // Where a session is served. Of exec: stdout, and stdin if `in`.
  virtual Result<std::string> execUrl(const std::string& id, const std::vector<std::string>& command, bool in) = 0;
  virtual Result<std::string> portForwardUrl(const Pod& pod) = 0;
  // The OCI spec, runtimeSpec of the verbose status.
  virtual Result<nlohmann::json> containerSpec(const std::string& id) = 0;
  virtual Result<pid_t> containerPid(const std::string& id) = 0;  // in the node, from the verbose status
  virtual Result<std::size_t> listPods() = 0;                     // their number
  virtual Result<std::size_t> listContainers() = 0;
  virtual Result<std::size_t> listContainerStats() = 0;  // those that have the cgroup's figures
  virtual Result<std::size_t> listPodStats() = 0;
  virtual Result<std::size_t> listPodMetrics() = 0;
  virtual Status removeAll() = 0;

  virtual Status pull(const std::string& image) = 0;
  virtual Result<std::vector<std::string>> listImages() = 0;  // of each its first tag, else its id
  virtual Result<bool> hasImage(const std::string& image) = 0;
  virtual Status removeImage(const std::string& image) = 0;
};

// In the node; of all pods of the benchmark, removed with removeAll().
inline constexpr const char* kLogDirectory = "/var/log/pods/userpod-bench";

}  // namespace userpod::bench

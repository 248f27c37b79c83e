// The rows of the result, each with its bare part.
#pragma once

#include <string>
#include <vector>

#include "policy/settings.hpp"
#include "tests/benchmark/bare_container.hpp"
#include "tests/benchmark/bare_sandbox.hpp"
#include "tests/benchmark/cri_client.hpp"
#include "tests/benchmark/measure.hpp"

namespace userpod::bench {

struct Options {
  bool json = false;
  unsigned samples = 200;
  unsigned pullSamples = 5;
  unsigned pods = 20;        // of the memory rows
  unsigned containers = 0;   // of the row ListContainers; 0: not measured
  std::string registry;      // host:port, with the images of tests/testbed/registry --bench
  std::vector<std::string> rows;

  bool wants(const std::string& row) const;
  std::string pauseImage() const { return registry + "/bench/pause:latest"; }
  std::string largeImage() const { return registry + "/bench/large:latest"; }
};

inline const std::vector<std::string> kLifecycleRows = {"RunPodSandbox", "CreateContainer+StartContainer", "ExecSync",
                                                        "StopContainer", "StopPodSandbox"};
inline const std::vector<std::string> kOtherRows = {"PullImage", "Memory", "ListContainers"};

// All lifecycle rows from the same pods: pod, container, exec, its stop, a second container, stop of the pod under it.
Status measureLifecycle(const Options& options, Client& client, BareSandboxes& sandboxes, BareContainers& containers,
                        Report& report);

// scratch: a directory on the disk of the daemon's data.
Status measurePull(const Options& options, Client& client, const std::string& scratch, Report& report);

// Times of ListContainers with that many running containers.
Status measureLists(const Options& options, Client& client, Report& report);

// Resident memory of userpodd, of the daemon proper and of its outer process, which for the most part is the same pages
// of the same libraries; and what each container's monitor adds (PSS).
class MemoryRows {
 public:
  // hostProc: /proc of the host's PID namespace, which shows the outer daemon too.
  MemoryRows(const Options& options, int hostProc) : options_(options), hostProc_(hostProc) {}
  Status idle(Report& report) const;  // before any pod
  Status withPods(Client& client, const std::string& cgroupRoot, Report& report) const;

 private:
  // Sums over the processes named userpodd that a /proc shows: the node's shows only the daemon proper.
  Result<double> daemonMiB(int proc) const;
  Status printDaemon(Report& report, const std::string& when) const;

  const Options& options_;
  const int hostProc_;
};

}  // namespace userpod::bench

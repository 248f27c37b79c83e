// The rows of the result, each with its bare part where there is one.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "policy/settings.hpp"
#include "tests/benchmark/bare_container.hpp"
#include "tests/benchmark/bare_sandbox.hpp"
#include "tests/benchmark/cri_client.hpp"
#include "tests/benchmark/host_side.hpp"
#include "tests/benchmark/measure.hpp"

namespace userpod::bench {

inline constexpr unsigned kLargeImages = 5;                    // that the registry has
inline constexpr unsigned kSmallImages = 50;                   // alike
inline constexpr unsigned kTransfers = 20;                     // samples of a rate, at most
inline constexpr std::uint64_t kTransferBytes = 512ULL << 20;  // of each

struct Options {
  bool json = false;
  unsigned samples = 200;
  unsigned pullSamples = kLargeImages;
  unsigned peerSamples = 3;                      // of other programs' pulls
  std::vector<unsigned> parallel = {1, 10, 50};  // callers at once of the lifecycle rows
  std::vector<unsigned> pods = {10, 100, 500};   // of the rows of many pods, ascending
  unsigned containers = 1000;                    // of the row ListContainers; 0: not measured
  std::string registry;                          // host:port, with the images of tests/testbed/registry --bench
  std::vector<std::string> rows;

  bool wants(const std::string& row) const;
  bool names(const std::string& row) const;  // wants it, and not only because none is named
  std::string pauseImage() const { return registry + "/bench/pause:latest"; }
  std::string largeImage(unsigned number) const { return registry + "/bench/large:" + std::to_string(number + 1); }
  // A large image with another top layer; without the registry's name.
  static std::string changedName(unsigned number) { return "bench/changed:" + std::to_string(number + 1); }
  std::string changedImage(unsigned number) const { return registry + "/" + changedName(number); }
  std::string smallImage(unsigned number) const { return registry + "/bench/small:" + std::to_string(number + 1); }
};

inline const std::vector<std::string> kLifecycleRows = {"RunPodSandbox", "CreateContainer+StartContainer", "ExecSync",
                                                        "StopContainer", "StopPodSandbox"};
inline const std::vector<std::string> kStreamRows = {"ExecSession", "ExecStdout", "PortForward", "Sessions"};
inline const std::vector<std::string> kOtherRows = {"PullImage", "Load",    "Stops",    "SharedPid",
                                                    "Pods",      "Network", "HostPort", "Images"};

// Where bare containers are made, of the same parts as a container of the product.
struct BareParts {
  std::unique_ptr<BareSandboxes> sandboxes;
  std::unique_ptr<BareContainers> containers;
};

// Resident and proportional memory in MiB, of both processes of the daemon together and of the outer one.
struct DaemonMemory {
  double rss = 0, pss = 0, outerRss = 0, outerPss = 0;
};

// "Row, 10 at once"
std::string atOnce(const std::string& row, unsigned callers);
// "Name:   value" in a file of /proc; empty without such a line.
std::string procField(const std::string& text, const std::string& name);

// outer: smaps_rollup of the outer process, which only a process in the host's namespaces may open: see openMemoryOf.
Result<DaemonMemory> daemonMemory(const UniqueFd& outer);

// All lifecycle rows from the same pods, for each number of callers at once.
Status measureLifecycle(const Options& options, Client& client, BareParts& bare, Report& report);

// Exec sessions over SPDY beside `crun exec` with a pipe: their time, and the rate of their output.
Status measureExecSessions(const Options& options, Client& client, BareParts& bare, Report& report);

// A forwarded connection beside a proxy of splice(2).
Status measurePortForward(const Options& options, Client& client, Report& report);

// Pods to each other and to the host, and how long it takes to make many.
Status measureNetwork(const Options& options, Client& client, BareSandboxes& bare, Report& report);

// Connections to a pod by a host port: beside a bare proxy, the port forwarding of slirp4netns, and the way without
// one.
Status measureHostPort(const Options& options, Client& client, BareSandboxes& bare, const NodeInside& node,
                       Report& report);

// Many sessions at once: what they cost the daemon, and that each gets its own bytes.
Status measureSessions(const Options& options, Client& client, const UniqueFd& outerMemory, Report& report);

// Times of ListContainers while the greatest number of callers make containers at once: reads must not wait for work.
Status measureListUnderLoad(const Options& options, Client& client, Report& report);

// The same while 200 StopContainer calls wait out a grace of 30 s; beside it, as its bare part, before them.
Status measureListDuringStops(const Options& options, Client& client, Report& report);

// RunPodSandbox with a pause process, and its memory.
Status measureSharedPid(const Options& options, Client& client, Report& report);

// Only where it is named: of the images that are there, which should be many.
Status measureImages(const Options& options, Client& client, const UniqueFd& outerMemory, Report& report);

// Pulls of a large image, cold and with a part of it there, of many small ones, and their memory: beside the bare
// parts, skopeo and Podman. scratch: a directory on the disk of the daemon's data; what is unpacked into it is left to
// the caller.
Status measurePull(const Options& options, Client& client, HostSide& host, const std::string& scratch, Report& report);

// Processor time of all threads of the daemon, milliseconds since its start: of the inner process, which does the work.
Result<double> daemonTime();

// What polling costs, with as many pods and containers as there are: the daemon's processor time under a kubelet's
// calls each second, and the times of the calls; ListContainerStats beside reading the same files of the cgroups.
Status measurePolling(const Options& options, Client& client, const std::string& cgroupRoot, std::size_t containers,
                      Report& report);

// What the daemon costs at rest: memory and processor, monitors, and the times of lists, with no pod and with many.
class PodRows {
 public:
  PodRows(const Options& options, Client& client, std::string cgroupRoot, const UniqueFd& outerMemory)
      : options_(options), client_(client), cgroupRoot_(std::move(cgroupRoot)), outerMemory_(outerMemory) {}
  Status idle(Report& report) const;  // before any pod
  Status withPods(Report& report);    // removes them at the end

 private:
  Status printDaemon(Report& report, const std::string& when) const;
  Status printMonitors(Report& report, const std::string& when) const;
  Status printLists(Report& report, std::size_t pods, std::size_t containers) const;
  Status grow(unsigned pods, unsigned containers);

  const Options& options_;
  Client& client_;
  const std::string cgroupRoot_;
  const UniqueFd& outerMemory_;
  std::vector<Pod> pods_;
  unsigned containers_ = 0;
};

// smaps_rollup of the own user's process of that name, opened.
Result<UniqueFd> openMemoryOf(const std::string& name);

}  // namespace userpod::bench

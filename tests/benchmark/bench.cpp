// userpod-bench: times of the running userpod through its CRI socket, beside the bare parts that any runtime must pay
// for on this machine, measured in turns with them. Started by tests/bench on the host, as the user; the measuring
// process stands where the daemon stands: in the node's namespaces but the host's network, so that both pull alike.
#include <signal.h>
#include <sys/file.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cerrno>

#include "daemon/sys/log.hpp"
#include "daemon/sys/util.hpp"
#include "tests/benchmark/rows.hpp"
#include "tests/benchmark/workspace.hpp"
#include "userns/fork.hpp"

namespace userpod::bench {
namespace {

constexpr unsigned kWantedSamples = 200;

// Takes away what the run made through the CRI, however it ends.
class Undo {
 public:
  Undo(Client& client, const Options& options) : client_(client), options_(options) {}
  Undo(const Undo&) = delete;
  Undo& operator=(const Undo&) = delete;
  ~Undo() {
    report(client_.removeAll());
    if (pulledPause_) report(client_.removeImage(options_.pauseImage()));
    report(removePulled());
  }
  Status begin() {
    USERPOD_CHECK(client_.removeAll());  // of a run that was killed
    USERPOD_CHECK(removePulled());
    USERPOD_TRY(known, client_.hasImage(options_.pauseImage()));
    if (known) return {};
    USERPOD_CHECK(client_.pull(options_.pauseImage()));
    pulledPause_ = true;
    return {};
  }

 private:
  Status removePulled() {
    if (!options_.wants("PullImage")) return {};
    for (unsigned number = 0; number < kLargeImages; ++number) {
      USERPOD_CHECK(client_.removeImage(options_.largeImage(number)));
      USERPOD_CHECK(client_.removeImage(options_.changedImage(number)));
    }
    for (unsigned number = 0; number < kSmallImages; ++number)
      USERPOD_CHECK(client_.removeImage(options_.smallImage(number)));
    return {};
  }
  static void report(const Status& status) {
    if (!status) logWarning("left behind by the benchmark: {}", status.error().text());
  }

  Client& client_;
  const Options& options_;
  bool pulledPause_ = false;
};

bool wantsAny(const Options& options, const std::vector<std::string>& rows) {
  return std::any_of(rows.begin(), rows.end(), [&](const auto& row) { return options.wants(row); });
}

Result<BareParts> openBare(const Options& options, const Paths& paths, const NodeInside& node,
                           const Workspace& workspace, Client& client) {
  USERPOD_TRY(settings, loadSettings(paths));
  USERPOD_TRY(tools, findTools(paths, settings));
  // A container that stays shows what the bare ones are to be made of.
  USERPOD_TRY(pod, client.runPod("model"));
  USERPOD_TRY(id, client.createContainer(pod, "model", options.pauseImage()));
  USERPOD_CHECK(client.startContainer(id));
  USERPOD_TRY(spec, client.containerSpec(id));
  USERPOD_TRY(model, modelOf(std::move(spec)));
  USERPOD_TRY(sandboxes, BareSandboxes::open(node, workspace.live() + "/ns"));
  USERPOD_TRY(containers, BareContainers::open(node, std::move(tools), std::move(model), workspace.live(),
                                               workspace.disk() + "/containers"));
  return BareParts{std::move(sandboxes), std::move(containers)};
}

Status rowsWithBareContainers(const Options& options, const Paths& paths, const NodeInside& node,
                              const Workspace& workspace, Client& client, Report& report) {
  USERPOD_TRY(bare, openBare(options, paths, node, workspace, client));
  if (wantsAny(options, kLifecycleRows)) USERPOD_CHECK(measureLifecycle(options, client, bare, report));
  USERPOD_CHECK(measureExecSessions(options, client, bare, report));
  if (options.wants("Network")) USERPOD_CHECK(measureNetwork(options, client, *bare.sandboxes, report));
  return options.wants("HostPort") ? measureHostPort(options, client, *bare.sandboxes, node, report) : Status();
}

bool wantsBareContainers(const Options& options) {
  return wantsAny(options, kLifecycleRows) || options.wants("ExecSession") || options.wants("ExecStdout") ||
         options.wants("Network") || options.wants("HostPort");
}

Status measure(const Options& options, const Paths& paths, const UniqueFd& outerMemory, HostSide& host) {
  USERPOD_TRY(node, NodeInside::open(paths));
  USERPOD_TRY(client, Client::connect(paths.criSocket()));
  Report report(options.json);
  PodRows pods(options, *client, node.cgroupRoot, outerMemory);
  if (options.names("Images")) USERPOD_CHECK(measureImages(options, *client, outerMemory, report));
  if (options.wants("Pods")) USERPOD_CHECK(pods.idle(report));
  USERPOD_TRY(workspace, Workspace::open(paths, node));
  Undo undo(*client, options);
  USERPOD_CHECK(undo.begin());
  if (wantsBareContainers(options)) {
    USERPOD_CHECK(rowsWithBareContainers(options, paths, node, *workspace, *client, report));
    USERPOD_CHECK(client->removeAll());
  }
  if (options.wants("PortForward")) USERPOD_CHECK(measurePortForward(options, *client, report));
  if (options.wants("Sessions")) USERPOD_CHECK(measureSessions(options, *client, outerMemory, report));
  if (options.wants("Load")) USERPOD_CHECK(measureListUnderLoad(options, *client, report));
  if (options.wants("Stops")) USERPOD_CHECK(measureListDuringStops(options, *client, report));
  if (options.wants("SharedPid")) USERPOD_CHECK(measureSharedPid(options, *client, report));
  if (options.wants("Pods")) USERPOD_CHECK(pods.withPods(report));
  // Last: what it leaves takes a while to remove, and the disk's time.
  if (options.wants("PullImage"))
    USERPOD_CHECK(measurePull(options, *client, host, workspace->disk() + "/pull", report));
  report.printLoad();
  return {};
}

int fail(const Error& error) {
  fmt::print(stderr, "userpod-bench: {}\n", error.text());
  return exitStatus(error.code());
}

// The measuring process; no thread has been made before it.
int insideNode(const Options& options, const Paths& paths, const UniqueFd& outerMemory, HostSide& host) {
  handleInterrupts();
  ::signal(SIGPIPE, SIG_IGN);
  auto done = measure(options, paths, outerMemory, host);
  return done ? 0 : fail(done.error());
}

// Waits for the measuring process and passes signals on; it cleans up and ends by itself.
int superviseOf(Child& child) {
  bool passed = false;
  while (true) {
    auto ended = child.waitFor(std::chrono::milliseconds(200));
    if (!ended) return fail(ended.error());
    if (*ended) return (*ended)->code;
    if (interrupted() && !passed) passed = static_cast<bool>(child.kill(SIGTERM));
  }
}

Status checkOptions(const Options& options) {
  for (const auto& row : options.rows) {
    bool known = false;
    for (const auto* list : {&kLifecycleRows, &kStreamRows, &kOtherRows})
      known |= std::find(list->begin(), list->end(), row) != list->end();
    if (!known) return Error(Code::InvalidArgument, "--rows: there is no row \"" + row + "\"; see --help");
  }
  if (options.samples == 0 || options.samples > 5000) return Error(Code::InvalidArgument, "--samples: 1 to 5000");
  for (unsigned callers : options.parallel)
    if (callers == 0 || callers > 200) return Error(Code::InvalidArgument, "--parallel: numbers of 1 to 200");
  if (options.pullSamples > kLargeImages)
    return Error(Code::InvalidArgument, fmt::format("--pull-samples: at most {}", kLargeImages));
  if (options.parallel.empty() || !std::is_sorted(options.pods.begin(), options.pods.end()))
    return Error(Code::InvalidArgument, "--parallel needs a number, --pods ascending ones");
  if (options.samples < kWantedSamples)
    fmt::print(stderr, "userpod-bench: fewer than {} samples: good for a look only\n", kWantedSamples);
  return {};
}

int runBenchmark(const Options& options) {
  if (auto checked = checkOptions(options); !checked) return fail(checked.error());
  auto paths = userPaths();
  if (!paths) return fail(paths.error());
  auto node = Node::find(*paths);
  if (!node) return fail(node.error());
  auto lock = openFile(paths->runtime + "/bench.lock", O_RDWR | O_CREAT, 0600);
  if (!lock) return fail(lock.error());
  if (::flock(lock->get(), LOCK_EX | LOCK_NB) < 0) return fail(Error(Code::Busy, "another benchmark is running"));
  auto outerMemory = openMemoryOf("userpodd");
  if (!outerMemory) return fail(outerMemory.error());
  auto host = HostSide::start();
  if (!host) return fail(host.error());
  handleInterrupts();
  auto child = forkInside(*node, {}, [&] { return insideNode(options, *paths, *outerMemory, **host); });
  if (!child) return fail(child.error());
  int status = superviseOf(*child);
  ::unlink((paths->runtime + "/bench.lock").c_str());
  return status;
}

}  // namespace

bool Options::wants(const std::string& row) const {
  return rows.empty() || names(row);
}

bool Options::names(const std::string& row) const {
  return std::find(rows.begin(), rows.end(), row) != rows.end();
}

}  // namespace userpod::bench

int main(int argc, char** argv) {
  userpod::bench::Options options;
  CLI::App app("Times of the running userpod beside the bare parts of each call");
  app.add_flag("--json", options.json,
               "one JSON object a line: name, p50, p95, p99, n, unit, rate, bare, bare_rate, ratio");
  app.add_option("--samples", options.samples, "of each row but PullImage (200)");
  app.add_option("--pull-samples", options.pullSamples, "of PullImage (5)");
  app.add_option("--peer-samples", options.peerSamples, "of other programs' pulls beside it (3)");
  app.add_option("--parallel", options.parallel, "callers at once of the rows of calls (1,10,50)")->delimiter(',');
  app.add_option("--pods", options.pods, "pods of the rows of many pods (10,100,500)")->delimiter(',');
  app.add_option("--containers", options.containers, "of the longest list (1000)");
  app.add_option("--registry", options.registry, "HOST:PORT of tests/testbed/registry --bench")
      ->required()
      ->envname("USERPOD_REGISTRY");
  app.add_option("--rows", options.rows,
                 "only these: RunPodSandbox, CreateContainer+StartContainer, ExecSync, StopContainer,"
                 " StopPodSandbox, ExecSession, ExecStdout, PortForward, Sessions, PullImage, Load, Stops, SharedPid,"
                 " Pods, Images")
      ->delimiter(',');
  CLI11_PARSE(app, argc, argv);
  return userpod::bench::runBenchmark(options);
}

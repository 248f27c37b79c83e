// Rows of pods and containers from their beginning to their end, one at a time and many at once.
#include <fmt/core.h>
#include <signal.h>

#include <algorithm>
#include <cstdlib>
#include <map>
#include <thread>

#include "daemon/sys/util.hpp"
#include "tests/benchmark/rows.hpp"

namespace userpod::bench {
namespace {

constexpr unsigned kWarmUp = 5;  // of a caller's rounds, which count for nothing
const std::vector<std::string> kTrue = {"/bin/true"};

// Until the container's own program has its handler, the kernel drops the signal: it is the first process of its PID
// namespace. `crun start` does not wait for that.
Status waitForHandler(pid_t pid, int signal) {
  for (int attempt = 0; attempt < 5000; ++attempt) {
    USERPOD_TRY(status, readFile(fmt::format("/proc/{}/status", pid)));
    if ((std::strtoull(procField(status, "SigCgt").c_str(), nullptr, 16) >> (signal - 1) & 1) != 0) return {};
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  return Error(Code::Timeout,
               fmt::format("process {} of a container handles no signal {}: is it the pause image?", pid, signal));
}

// One caller of those who call at once: its pod and container, and the bare ones beside them.
struct Lane {
  unsigned number = 0;  // of the pod and of the bare sandbox
  Pod pod;
  std::string container;
  BareContainer bare;
};

class Lifecycle {
 public:
  // firstNumber: of the first bare sandbox, none of which is used twice.
  Lifecycle(const Options& options, Client& client, BareSandboxes& sandboxes, BareContainers& containers,
            unsigned callers, unsigned firstNumber)
      : options_(options),
        client_(client),
        sandboxes_(sandboxes),
        containers_(containers),
        lanes_(callers),
        next_(firstNumber) {
    for (const auto& name : kLifecycleRows) rows_[name].name = atOnce(name, callers);
  }

  Status run(Report& report) {
    const auto callers = static_cast<unsigned>(lanes_.size());
    const unsigned warmUp = (kWarmUp + callers - 1) / callers;
    const unsigned rounds = warmUp + (options_.samples + callers - 1) / callers;
    for (round_ = 0; round_ < rounds; ++round_) {
      if (round_ == warmUp) forget();
      USERPOD_CHECK(checkInterrupted());
      USERPOD_CHECK(round());
    }
    for (const auto& name : kLifecycleRows)
      if (options_.wants(name)) report.print(rows_.at(name));
    return {};
  }
  unsigned nextNumber() const { return next_; }

 private:
  void forget() {
    for (auto& [name, row] : rows_) row.product = row.bare = {};
  }
  // The calls of all lanes at once, the product's and the bare ones in turns.
  Status measure(const char* row, const std::function<Status(Lane&)>& product,
                 const std::function<Status(Lane&)>& bare) {
    return inTurns(
        rows_[row], round_, static_cast<unsigned>(lanes_.size()),
        [&](unsigned index) { return product(lanes_[index]); }, [&](unsigned index) { return bare(lanes_[index]); });
  }
  // What is not measured.
  Status forAll(const std::function<Status(Lane&)>& action) {
    for (auto& lane : lanes_) USERPOD_CHECK(action(lane));
    return {};
  }

  // Pod, container, exec, its stop; a second container, stop of the pod under it.
  Status round() {
    for (auto& lane : lanes_) lane.number = next_++;
    USERPOD_CHECK(measure(
        "RunPodSandbox",
        [&](Lane& lane) -> Status {
          USERPOD_TRY(pod, client_.runPod(fmt::format("bench-{}", lane.number)));
          lane.pod = pod;
          return {};
        },
        [&](Lane& lane) { return sandboxes_.make(lane.number); }));
    USERPOD_CHECK(makeContainers(0));
    USERPOD_CHECK(measure(
        "ExecSync", [&](Lane& lane) { return client_.exec(lane.container, kTrue); },
        [&](Lane& lane) { return containers_.exec(lane.bare, kTrue); }));
    USERPOD_CHECK(measure(
        "StopContainer", [&](Lane& lane) { return client_.stopContainer(lane.container); },
        [&](Lane& lane) { return containers_.stop(lane.bare); }));
    USERPOD_CHECK(forAll([&](Lane& lane) -> Status {
      USERPOD_CHECK(client_.removeContainer(lane.container));
      return containers_.remove(lane.bare);
    }));
    USERPOD_CHECK(makeContainers(1));
    auto bareStop = [&](Lane& lane) -> Status {
      USERPOD_CHECK(containers_.stop(lane.bare));
      return sandboxes_.drop(lane.number);
    };
    USERPOD_CHECK(measure("StopPodSandbox", [&](Lane& lane) { return client_.stopPod(lane.pod); }, bareStop));
    return forAll([&](Lane& lane) -> Status {
      USERPOD_CHECK(client_.removePod(lane.pod));
      return containers_.remove(lane.bare);
    });
  }

  // turn: 0 or 1. Both containers of a pod count as samples.
  Status makeContainers(unsigned turn) {
    USERPOD_CHECK(forAll([&](Lane& lane) -> Status {
      std::vector<std::pair<std::string, std::string>> pins;
      for (const char* name : {"net", "ipc", "uts"}) pins.emplace_back(name, sandboxes_.pin(lane.number, name));
      USERPOD_TRY(prepared, containers_.prepare(2 * lane.number + turn, pins));
      lane.bare = std::move(prepared);
      return {};
    }));
    USERPOD_CHECK(measure(
        "CreateContainer+StartContainer",
        [&](Lane& lane) -> Status {
          USERPOD_TRY(id, client_.createContainer(lane.pod, fmt::format("c{}", turn), options_.pauseImage()));
          lane.container = id;
          return client_.startContainer(id);
        },
        [&](Lane& lane) { return containers_.start(lane.bare); }));
    return forAll([&](Lane& lane) -> Status {
      USERPOD_TRY(pid, client_.containerPid(lane.container));
      USERPOD_CHECK(waitForHandler(pid, SIGTERM));
      return waitForHandler(lane.bare.process, SIGTERM);
    });
  }

  const Options& options_;
  Client& client_;
  BareSandboxes& sandboxes_;
  BareContainers& containers_;
  std::vector<Lane> lanes_;
  std::map<std::string, Row> rows_;
  unsigned next_;
  unsigned round_ = 0;
};

}  // namespace

std::string atOnce(const std::string& row, unsigned callers) {
  return callers == 1 ? row : fmt::format("{}, {} at once", row, callers);
}

std::string procField(const std::string& text, const std::string& name) {
  for (const auto& line : split(text, '\n'))
    if (line.starts_with(name + ":")) return std::string(trim(std::string_view(line).substr(name.size() + 1)));
  return {};
}

Status measureLifecycle(const Options& options, Client& client, BareParts& bare, Report& report) {
  unsigned number = 0;
  for (unsigned callers : options.parallel) {
    Lifecycle lifecycle(options, client, *bare.sandboxes, *bare.containers, callers, number);
    USERPOD_CHECK(lifecycle.run(report));
    number = lifecycle.nextNumber();
  }
  return {};
}

}  // namespace userpod::bench

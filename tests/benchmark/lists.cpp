// Lists while the daemon has other things to do, and pods whose containers share a PID namespace.
#include <fmt/core.h>

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <filesystem>
#include <thread>

#include "daemon/sys/util.hpp"
#include "tests/benchmark/rows.hpp"

namespace userpod::bench {
namespace {

constexpr std::chrono::milliseconds kListPause{5};
constexpr unsigned kStops = 200;         // StopContainer calls in flight
constexpr unsigned kStopsPods = 20;      // that their containers are in
constexpr std::int64_t kLongGrace = 30;  // seconds

Status timedList(Samples& samples, Client& client, std::size_t least) {
  return timed(samples, [&]() -> Status {
    USERPOD_TRY(count, client.listContainers());
    return count >= least ? Status()
                          : Error(Code::Internal, fmt::format("ListContainers lists {}, fewer than {}", count, least));
  });
}

Status lists(const Options& options, Client& client, Samples& samples) {
  for (unsigned number = 0; number < options.samples; ++number) {
    USERPOD_CHECK(checkInterrupted());
    USERPOD_CHECK(timedList(samples, client, kStops));
    std::this_thread::sleep_for(kListPause);
  }
  samples.seconds = 0;  // with pauses: no rate
  return {};
}

// Containers that their stop signal does not end.
Result<std::vector<std::string>> stubbornContainers(const Options& options, Client& client) {
  std::vector<std::string> ids(kStops);
  Samples ignored;
  USERPOD_CHECK(timedTogether(ignored, kStopsPods, [&](unsigned pod) -> Status {
    USERPOD_TRY(made, client.runPod(fmt::format("stubborn-{}", pod)));
    for (unsigned index = pod; index < kStops; index += kStopsPods) {
      USERPOD_TRY(id, client.createContainer(made, fmt::format("c{}", index), options.pauseImage(), true));
      USERPOD_CHECK(client.startContainer(id));
      ids[index] = id;
    }
    return {};
  }));
  return ids;
}

// Of the last pod's pause process. Containers of the pause image bear its name too; none is there now.
Result<double> pauseMemory() {
  std::error_code failed;
  for (const auto& entry : std::filesystem::directory_iterator("/proc", failed)) {
    std::string directory = entry.path();
    auto name = readFile(directory + "/comm");
    if (!name || trim(*name) != "pause") continue;
    USERPOD_TRY(memory, readFile(directory + "/smaps_rollup"));
    return std::strtod(procField(memory, "Pss").c_str(), nullptr) / 1024;
  }
  return Error(Code::Internal, "the pod has no pause process");
}

}  // namespace

Status measureListUnderLoad(const Options& options, Client& client, Report& report) {
  const unsigned callers = *std::max_element(options.parallel.begin(), options.parallel.end());
  std::vector<Pod> pods(callers);
  for (unsigned index = 0; index < callers; ++index) {
    USERPOD_TRY(pod, client.runPod(fmt::format("load-{}", index)));
    pods[index] = pod;
  }
  Row row{fmt::format("ListContainers while {} are made", callers), {}, {}};
  for (unsigned round = 0; row.product.values.size() < options.samples; ++round) {
    USERPOD_CHECK(checkInterrupted());
    std::vector<std::string> made(callers);
    std::atomic<bool> running = true;
    Status created;
    std::jthread creators([&] {
      Samples ignored;
      created = timedTogether(ignored, callers, [&](unsigned index) -> Status {
        USERPOD_TRY(id, client.createContainer(pods[index], fmt::format("c{}", round), options.pauseImage()));
        made[index] = id;
        return client.startContainer(id);
      });
      running = false;
    });
    Status listed;
    while (running && listed) {
      std::this_thread::sleep_for(kListPause);
      if (running) listed = timedList(row.product, client, 0);
    }
    creators.join();
    USERPOD_CHECK(std::move(created));
    USERPOD_CHECK(std::move(listed));
    for (const auto& id : made) USERPOD_CHECK(client.removeContainer(id));
  }
  row.product.seconds = 0;  // with pauses: no rate
  report.print(row);
  return client.removeAll();
}

Status measureListDuringStops(const Options& options, Client& client, Report& report) {
  USERPOD_TRY(ids, stubbornContainers(options, client));
  Row row{fmt::format("ListContainers, {} stops wait", kStops), {}, {}};
  USERPOD_CHECK(lists(options, client, row.bare));
  Samples ignored;
  Status stopped;
  std::jthread stops([&] {
    stopped =
        timedTogether(ignored, kStops, [&](unsigned index) { return client.stopContainer(ids[index], kLongGrace); });
  });
  Status listed = lists(options, client, row.product);
  // A shorter grace shortens those under way.
  for (const auto& id : ids) USERPOD_CHECK(client.stopContainer(id, 0));
  stops.join();
  USERPOD_CHECK(std::move(listed));
  USERPOD_CHECK(std::move(stopped));
  report.print(row);
  report.print(
      valueRow("  its delay at p99", percentile(row.product.values, 99) - percentile(row.bare.values, 99), "ms"));
  return client.removeAll();
}

Status measureSharedPid(const Options& options, Client& client, Report& report) {
  Row row{"RunPodSandbox, shared PID namespace", {}, {}};
  std::vector<Pod> pods(options.samples);
  for (unsigned index = 0; index < options.samples; ++index) {
    USERPOD_CHECK(checkInterrupted());
    USERPOD_CHECK(timed(row.product, [&]() -> Status {
      USERPOD_TRY(pod, client.runPod(fmt::format("shared-{}", index), true));
      pods[index] = pod;
      return {};
    }));
    if (index + 1 == options.samples) break;  // the last one stays, to be looked at
    USERPOD_CHECK(client.stopPod(pods[index]));
    USERPOD_CHECK(client.removePod(pods[index]));
  }
  report.print(row);
  USERPOD_TRY(memory, pauseMemory());
  report.print(valueRow("userpod-pause PSS", memory, "MiB"));
  return client.removeAll();
}

}  // namespace userpod::bench

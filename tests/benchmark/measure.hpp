// Samples and what is printed of them.
#pragma once

#include <chrono>
#include <latch>
#include <string>
#include <thread>
#include <vector>

#include "daemon/sys/error.hpp"

namespace userpod::bench {

struct Samples {
  std::vector<double> values;
  double seconds = 0;  // from the first call to the end of the last, summed over all batches; 0: not of calls
};

// One line of the result. Samples of the bare part are taken in turns with the product's own, in the same unit.
struct Row {
  std::string name;
  Samples product;
  Samples bare;  // empty: there is no bare part
  std::string unit = "ms";
};
Row valueRow(std::string name, double value, std::string unit);

// The smallest sample that at least `percent` of them do not exceed (nearest rank). samples must not be empty.
double percentile(std::vector<double> samples, double percent);

// Prints each row when it is done: a table, or one JSON object a line with name, min, p50, p95, p99, n, unit, rate
// (calls a second, all callers together, or null), and of the bare part bare (its p50), bare_min, bare_rate and ratio
// (p50 / bare), or null.
class Report {
 public:
  explicit Report(bool json) : json_(json) {}
  void print(const Row& row);
  // The machine's load (1 minute) at the moments when rows were printed: what else it did meanwhile.
  void printLoad();

 private:
  const bool json_;
  bool headPrinted_ = false;
  std::vector<double> loads_;
};

// Runs action(0) to action(count - 1) at once, each in a thread of its own, and appends their times in milliseconds.
// The action returns a Status. The first error counts; all have ended when this returns.
template <typename Action>
Status timedTogether(Samples& samples, unsigned count, Action&& action) {
  using Clock = std::chrono::steady_clock;
  std::vector<double> times(count);
  std::vector<Status> results(count);
  auto one = [&](unsigned index) {
    auto begin = Clock::now();
    results[index] = action(index);
    times[index] = std::chrono::duration<double, std::milli>(Clock::now() - begin).count();
  };
  auto begin = Clock::now();
  if (count == 1) {
    one(0);
  } else {
    std::latch gate(count + 1);
    std::vector<std::jthread> threads;
    for (unsigned index = 0; index < count; ++index)
      threads.emplace_back([&, index] {
        gate.arrive_and_wait();
        one(index);
      });
    begin = Clock::now();
    gate.arrive_and_wait();
    threads.clear();
  }
  samples.seconds += std::chrono::duration<double>(Clock::now() - begin).count();
  for (auto& result : results) USERPOD_CHECK(std::move(result));
  samples.values.insert(samples.values.end(), times.begin(), times.end());
  return {};
}

template <typename Action>
Status timed(Samples& samples, Action&& action) {
  return timedTogether(samples, 1, [&](unsigned) { return action(); });
}

// `count` calls of each side at once. The sides take turns in going first, so that what one leaves to the kernel to
// finish behind it (namespaces, mounts, dirty pages) falls on both alike.
template <typename Product, typename Bare>
Status inTurns(Row& row, unsigned round, unsigned count, Product&& product, Bare&& bare) {
  if (round % 2 == 0) USERPOD_CHECK(timedTogether(row.product, count, product));
  USERPOD_CHECK(timedTogether(row.bare, count, bare));
  if (round % 2 != 0) USERPOD_CHECK(timedTogether(row.product, count, product));
  return {};
}

// SIGINT, SIGTERM or SIGHUP has come: the rounds end early and everything is removed. checkInterrupted() is that as an
// error.
void handleInterrupts();
bool interrupted();
Status checkInterrupted();

}  // namespace userpod::bench

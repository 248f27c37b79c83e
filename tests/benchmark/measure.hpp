// Samples and what is printed of them.
#pragma once

#include <chrono>
#include <string>
#include <vector>

#include "daemon/sys/error.hpp"

namespace userpod::bench {

// One line of the result. Samples of the bare part are taken in turns with the product's own, in the same unit.
struct Row {
  std::string name;
  std::vector<double> samples;
  std::vector<double> bare;  // empty: there is no bare part
  std::string unit = "ms";
};

// The smallest sample that at least `percent` of them do not exceed (nearest rank). samples must not be empty.
double percentile(std::vector<double> samples, double percent);

// Prints each row when it is done: a table, or one JSON object a line with name, p50, p95, n, unit, bare (p50 of the bare
// part, or null) and ratio (p50 / bare, or null).
class Report {
 public:
  explicit Report(bool json) : json_(json) {}
  void print(const Row& row);

 private:
  const bool json_;
  bool headPrinted_ = false;
};

// Runs the action, which returns a Status or a Result, and appends its time in milliseconds.
template <typename Action>
Status timed(std::vector<double>& samples, Action&& action) {
  auto begin = std::chrono::steady_clock::now();
  auto done = action();
  std::chrono::duration<double, std::milli> took = std::chrono::steady_clock::now() - begin;
  if (!done) return std::move(done).error();
  samples.push_back(took.count());
  return {};
}

// One sample of each side. They take turns in going first, so that what one leaves to the kernel to finish behind it
// (namespaces, mounts, dirty pages) falls on both alike.
template <typename Product, typename Bare>
Status inTurns(Row& row, unsigned round, Product&& product, Bare&& bare) {
  if (round % 2 == 0) USERPOD_CHECK(timed(row.samples, product));
  USERPOD_CHECK(timed(row.bare, bare));
  if (round % 2 != 0) USERPOD_CHECK(timed(row.samples, product));
  return {};
}

// SIGINT, SIGTERM or SIGHUP has come: the rounds end early and everything is removed. checkInterrupted() is that as an error.
void handleInterrupts();
bool interrupted();
Status checkInterrupted();

}  // namespace userpod::bench

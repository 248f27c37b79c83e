#include "tests/benchmark/measure.hpp"

#include <fmt/core.h>
#include <signal.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <nlohmann/json.hpp>

namespace userpod::bench {
namespace {

volatile sig_atomic_t interruptedFlag = 0;

double rounded(double value) { return std::round(value * 1000) / 1000; }

}  // namespace

double percentile(std::vector<double> samples, double percent) {
  auto rank = static_cast<std::size_t>(std::ceil(percent / 100 * static_cast<double>(samples.size())));
  auto wanted = samples.begin() + static_cast<std::ptrdiff_t>(std::max<std::size_t>(rank, 1) - 1);
  std::nth_element(samples.begin(), wanted, samples.end());
  return *wanted;
}

void Report::print(const Row& row) {
  if (row.samples.empty()) return;
  double p50 = percentile(row.samples, 50);
  double p95 = percentile(row.samples, 95);
  double bare = row.bare.empty() ? 0 : percentile(row.bare, 50);
  if (json_) {
    nlohmann::ordered_json line{{"name", row.name},
                                {"p50", rounded(p50)},
                                {"p95", rounded(p95)},
                                {"n", row.samples.size()},
                                {"unit", row.unit},
                                {"bare", nullptr},
                                {"ratio", nullptr}};
    if (bare > 0) line["bare"] = rounded(bare);
    if (bare > 0) line["ratio"] = rounded(p50 / bare);
    fmt::print("{}\n", line.dump());
  } else {
    if (!headPrinted_)
      fmt::print("{:<32} {:>10} {:>10} {:>6} {:<4} {:>10} {:>7}\n", "", "p50", "p95", "n", "unit", "bare p50", "ratio");
    headPrinted_ = true;
    fmt::print("{:<32} {:>10.2f} {:>10.2f} {:>6} {:<4}", row.name, p50, p95, row.samples.size(), row.unit);
    if (bare > 0) fmt::print(" {:>10.2f} {:>7.2f}", bare, p50 / bare);
    fmt::print("\n");
  }
  std::fflush(stdout);
}

void handleInterrupts() {
  struct sigaction action {};
  action.sa_handler = [](int) { interruptedFlag = 1; };
  action.sa_flags = SA_RESTART;
  for (int signal : {SIGINT, SIGTERM, SIGHUP}) ::sigaction(signal, &action, nullptr);
}

bool interrupted() { return interruptedFlag != 0; }

Status checkInterrupted() {
  if (interrupted()) return Error(Code::Canceled, "interrupted; what was made is removed");
  return {};
}

}  // namespace userpod::bench

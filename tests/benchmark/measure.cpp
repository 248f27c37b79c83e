#include "tests/benchmark/measure.hpp"

#include <fmt/core.h>
#include <signal.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <nlohmann/json.hpp>

namespace userpod::bench {
namespace {

volatile sig_atomic_t interruptedFlag = 0;

nlohmann::json rounded(double value) {
  if (value == 0) return nullptr;
  return std::round(value * 1000) / 1000;
}

double rate(const Samples& samples) {
  return samples.seconds > 0 ? static_cast<double>(samples.values.size()) / samples.seconds : 0;
}

// A column of the table, empty for what there is none of.
std::string column(double value, int width) {
  return value == 0 ? std::string(static_cast<std::size_t>(width) + 1, ' ') : fmt::format(" {:>{}.2f}", value, width);
}

}  // namespace

Row valueRow(std::string name, double value, std::string unit) {
  return {std::move(name), {{value}}, {}, std::move(unit)};
}

double percentile(std::vector<double> samples, double percent) {
  auto rank = static_cast<std::size_t>(std::ceil(percent / 100 * static_cast<double>(samples.size())));
  auto wanted = samples.begin() + static_cast<std::ptrdiff_t>(std::max<std::size_t>(rank, 1) - 1);
  std::nth_element(samples.begin(), wanted, samples.end());
  return *wanted;
}

void Report::print(const Row& row) {
  if (row.product.values.empty()) return;
  if (double load = 0; ::getloadavg(&load, 1) == 1) loads_.push_back(load);
  double least = percentile(row.product.values, 0);
  double p50 = percentile(row.product.values, 50);
  double p95 = percentile(row.product.values, 95);
  double p99 = percentile(row.product.values, 99);
  double bare = row.bare.values.empty() ? 0 : percentile(row.bare.values, 50);
  double bareLeast = row.bare.values.empty() ? 0 : percentile(row.bare.values, 0);
  double ratio = bare > 0 ? p50 / bare : 0;
  if (json_) {
    nlohmann::ordered_json line{{"name", row.name},
                                {"min", std::round(least * 1000) / 1000},
                                {"p50", std::round(p50 * 1000) / 1000},
                                {"p95", std::round(p95 * 1000) / 1000},
                                {"p99", std::round(p99 * 1000) / 1000},
                                {"n", row.product.values.size()},
                                {"unit", row.unit},
                                {"rate", rounded(rate(row.product))},
                                {"bare", rounded(bare)},
                                {"bare_min", rounded(bareLeast)},
                                {"bare_rate", rounded(rate(row.bare))},
                                {"ratio", rounded(ratio)}};
    fmt::print("{}\n", line.dump());
  } else {
    if (!headPrinted_)
      fmt::print("{:<48} {:>9} {:>9} {:>9} {:>9} {:>5} {:<5} {:>8} {:>9} {:>9} {:>8} {:>6}\n", "", "min", "p50", "p95",
                 "p99", "n", "unit", "/s", "bare min", "bare p50", "bare /s", "ratio");
    headPrinted_ = true;
    std::string line = fmt::format("{:<48} {:>9.2f} {:>9.2f} {:>9.2f} {:>9.2f} {:>5} {:<5}", row.name, least, p50, p95,
                                   p99, row.product.values.size(), row.unit);
    line += column(rate(row.product), 8) + column(bareLeast, 9) + column(bare, 9) + column(rate(row.bare), 8) +
            column(ratio, 6);
    line.erase(line.find_last_not_of(' ') + 1);
    fmt::print("{}\n", line);
  }
  std::fflush(stdout);
}

void Report::printLoad() {
  print({"load average of the machine", {loads_}, {}, "tasks"});
}

void handleInterrupts() {
  struct sigaction action{};
  action.sa_handler = [](int) { interruptedFlag = 1; };
  action.sa_flags = SA_RESTART;
  for (int signal : {SIGINT, SIGTERM, SIGHUP}) ::sigaction(signal, &action, nullptr);
}

bool interrupted() {
  return interruptedFlag != 0;
}

Status checkInterrupted() {
  if (interrupted()) return Error(Code::Canceled, "interrupted; what was made is removed");
  return {};
}

}  // namespace userpod::bench

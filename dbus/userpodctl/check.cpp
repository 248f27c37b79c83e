// check: the daemon's own, or without one what can be seen from outside.
#include <fmt/core.h>
#include <unistd.h>

#include "dbus/userpodctl/bus_client.hpp"
#include "dbus/userpodctl/check_offline.hpp"
#include "dbus/userpodctl/check_view.hpp"
#include "dbus/userpodctl/commands.hpp"
#include "dbus/userpodctl/output.hpp"

namespace userpod::ctl {
namespace {

constexpr int kFindingsLeft = 1;

// How far a long check is, on a terminal.
class Counter {
 public:
  explicit Counter(const Display& display) : shown_(!display.json && ::isatty(STDERR_FILENO) == 1) {}
  void changed(const Json& properties) {
    if (!shown_) return;
    for (const auto& [name, value] : properties.items()) known_[name] = value;
    auto total = known_.value("Total", std::uint64_t{0});
    if (total == 0) return;
    fmt::print(stderr, "\r{} {} of {}\033[K", known_.value("Stage", ""), known_.value("Done", std::uint64_t{0}), total);
    drawn_ = true;
  }
  void clear() const {
    if (drawn_) fmt::print(stderr, "\r\033[K");
  }

 private:
  bool shown_;
  bool drawn_ = false;
  Json known_ = Json::object();
};

Result<Findings> runOnDaemon(BusClient& bus, bool repair, bool deep, const Display& display) {
  std::vector<std::string> names;
  if (repair) names.emplace_back("repair");
  if (deep) names.emplace_back("deep");
  Counter counter(display);
  auto result = bus.runJob(kRootPath, kManager, "Check", trueOptions(names),
                           {[&](const Json& changed) { counter.changed(changed); }, {}});
  counter.clear();
  if (!result) return std::move(result).error();
  return findingsOf(*result);
}

int showFindings(const Findings& findings, const std::string& unreachable, const Display& display) {
  if (display.json) {
    fmt::print("{}\n", Json({{"daemon", unreachable.empty()},
                             {"unreachable", unreachable},
                             {"findings", findingsJson(findings)},
                             {"left", left(findings)}})
                           .dump(2, ' ', false, Json::error_handler_t::replace));
  } else {
    if (unreachable.empty() || !findings.empty()) fmt::print("{}", findingsText(findings, display.color));
    if (!unreachable.empty())
      fmt::print(
          "Only databases, directories and the host were looked at, as the daemon cannot be asked: {}\n"
          "A daemon that starts mends by itself what an earlier one has left: systemctl --user start userpod.service\n",
          printable(unreachable));
  }
  if (!unreachable.empty()) return exitStatus(Code::NotReady);
  return left(findings) > 0 ? kFindingsLeft : 0;
}

// A daemon that does not run is started only to repair something.
Result<BusClient> reachDaemon(bool start) {
  USERPOD_TRY(bus, BusClient::open());
  USERPOD_TRY(state, bus.properties(kRootPath, kManager, start));
  (void)state;
  return std::move(bus);
}

bool isAbsence(const Error& error) {
  return error.code() == Code::NotReady || error.code() == Code::System || error.code() == Code::Timeout;
}

int checkOffline(const CheckCommand& options, const Error& why, const Display& display) {
  auto paths = userPaths();
  if (!paths) return fail(paths.error(), display);
  auto findings = offlineFindings(*paths);
  if (options.repair) repairOffline(findings);
  return showFindings(findings, why.text(), display);
}

Result<int> checkAndRepair(BusClient& bus, const CheckCommand& options, const Display& display) {
  if (!options.yes) {
    USERPOD_TRY(planned, runOnDaemon(bus, false, options.deep, display));
    if (repairable(planned) == 0) return showFindings(planned, "", display);
    fmt::print("{}\n", findingsText(planned, display.color));
    if (!confirmed(fmt::format("This repairs {} of them.", repairable(planned))))
      return Error(Code::Canceled, "nothing was repaired");
  }
  USERPOD_TRY(found, runOnDaemon(bus, true, options.deep, display));
  return showFindings(found, "", display);
}

Result<int> checkOnDaemon(BusClient& bus, const CheckCommand& options, const Display& display) {
  if (options.repair) return checkAndRepair(bus, options, display);
  USERPOD_TRY(found, runOnDaemon(bus, false, options.deep, display));
  return showFindings(found, "", display);
}

}  // namespace

int runCheck(const CheckCommand& options, const Display& display) {
  if (options.repair && !options.yes && (display.json || ::isatty(STDIN_FILENO) != 1))
    return fail(
        Error(Code::InvalidArgument, "check --repair changes things: say --yes, or leave --repair out to see which"),
        display);
  auto bus = reachDaemon(options.repair);
  if (!bus && isAbsence(bus.error())) return checkOffline(options, bus.error(), display);
  if (!bus) return fail(bus.error(), display);
  auto status = checkOnDaemon(*bus, options, display);
  return status ? *status : fail(status.error(), display);
}

}  // namespace userpod::ctl

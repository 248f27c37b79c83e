// start, pause, resume, stop, rm, rmi, pull: what changes.
#include <fmt/core.h>
#include <unistd.h>

#include <cstdio>

#include "daemon/sys/fd.hpp"
#include "daemon/sys/util.hpp"
#include "dbus/userpodctl/bus_client.hpp"
#include "dbus/userpodctl/commands.hpp"
#include "dbus/userpodctl/output.hpp"

namespace userpod::ctl {
namespace {

void report(const std::string& verb, const std::string& key, const std::string& path, const Display& display) {
  if (display.json)
    fmt::print("{}\n", Json({{"result", verb}, {"key", key}, {"path", path}}).dump());
  else
    fmt::print("{}: {}\n", printable(key), verb);
}

// Calls something for every key; goes on after an error and returns the first.
template <typename Act>
int forEach(const ActOptions& options, const Display& display, const char* verb, const Act& act) {
  auto bus = BusClient::open();
  if (!bus) return fail(bus.error(), display);
  int status = 0;
  for (const auto& key : options.keys) {
    Result<std::string> path = act(*bus, key);
    if (path) {
      report(verb, key, *path, display);
      continue;
    }
    int failed = fail(Error(path.error()).wrap(key), display);
    if (status == 0) status = failed;
  }
  return status;
}

Arguments stopArguments(const ActOptions& options, bool container) {
  return [&options, container](sd_bus_message* message) {
    int failed = sd_bus_message_open_container(message, 'a', "{sv}");
    if (failed >= 0 && options.forceManaged) failed = sd_bus_message_append(message, "{sv}", "force-managed", "b", 1);
    if (failed >= 0 && container && options.grace >= 0)
      failed = sd_bus_message_append(message, "{sv}", "timeout-usec", "t",
                                     static_cast<std::uint64_t>(options.grace) * 1'000'000);
    return failed < 0 ? failed : sd_bus_message_close_container(message);
  };
}

Arguments flags(const ActOptions& options, bool container) {
  std::vector<std::string> names;
  if (options.forceManaged) names.emplace_back("force-managed");
  if (options.force && container) names.emplace_back("force");
  return trueOptions(names);
}

// A method that returns (u id, o job).
Result<Json> runJob(BusClient& bus, const std::string& path, const std::string& interface, const char* method,
                    const Arguments& arguments, const std::function<void(const Json&)>& progress = {}) {
  USERPOD_TRY(answer, bus.call(path, interface.c_str(), method, arguments));
  if (!answer.is_array() || answer.size() != 2) return Error(Code::Internal, "the daemon answered without a job");
  return bus.waitForJob(answer[1].get<std::string>(), progress);
}

// A method of containers that answers nothing.
int callEach(const ActOptions& options, const Display& display, const char* verb, const char* method) {
  return forEach(options, display, verb, [&](BusClient& bus, const std::string& key) -> Result<std::string> {
    USERPOD_TRY(object, bus.find(key, {"Container"}));
    USERPOD_TRY(done, bus.call(object.path, object.interface.c_str(), method, flags(options, false)));
    (void)done;
    return object.path;
  });
}

// What a running pull says, on one line of a terminal.
class ProgressLine {
 public:
  explicit ProgressLine(bool shown) : shown_(shown) {}
  ProgressLine(const ProgressLine&) = delete;
  ProgressLine& operator=(const ProgressLine&) = delete;
  ~ProgressLine() {
    if (shown_ && drawn_) fmt::print(stderr, "\r\033[K");
  }

  void update(const Json& changed) {
    for (auto& [name, value] : changed.items()) state_[name] = value;
    if (!shown_) return;
    std::string line = state_.value("Stage", "");
    auto done = state_.value("Done", std::uint64_t{0});
    auto total = state_.value("Total", std::uint64_t{0});
    if (total > 0)
      line += fmt::format("  {} of {}  {:.0f} %", sizeText(done), sizeText(total),
                          100.0 * static_cast<double>(done) / static_cast<double>(total));
    if (auto rate = state_.value("Rate", std::uint64_t{0}); rate > 0) line += fmt::format("  {}/s", sizeText(rate));
    fmt::print(stderr, "\r\033[K{}", printable(line));
    std::fflush(stderr);
    drawn_ = true;
  }

 private:
  bool shown_;
  bool drawn_ = false;
  Json state_ = Json::object();
};

Result<std::string> readPassword() {
  if (::isatty(STDIN_FILENO) == 1)
    return Error(Code::InvalidArgument, "--password-stdin reads a pipe or a file, not a terminal");
  USERPOD_TRY(text, readAll(STDIN_FILENO, 64 << 10));
  return std::string(trim(text));
}

Status pull(const PullOptions& options, const Display& display) {
  std::string password;
  if (options.passwordStdin) {
    USERPOD_TRY(given, readPassword());
    password = given;
  }
  USERPOD_TRY(bus, BusClient::open());
  ProgressLine line(!display.json && ::isatty(STDERR_FILENO) == 1);
  auto arguments = [&](sd_bus_message* message) {
    int failed = sd_bus_message_append(message, "s", options.image.c_str());
    if (failed >= 0) failed = sd_bus_message_open_container(message, 'a', "{sv}");
    if (failed >= 0 && !options.username.empty())
      failed = sd_bus_message_append(message, "{sv}{sv}", "username", "s", options.username.c_str(), "password", "s",
                                     password.c_str());
    return failed < 0 ? failed : sd_bus_message_close_container(message);
  };
  USERPOD_TRY(result, runJob(bus, kRootPath, kManager, "PullImage", arguments,
                             [&](const Json& changed) { line.update(changed); }));
  if (display.json) {
    fmt::print("{}\n", result.dump(2));
    return {};
  }
  std::string path = result.value("image", "");
  USERPOD_TRY(image, bus.properties(path, "org.userpod1.Image"));
  fmt::print("{}\n", image.value("Id", path));
  return {};
}

}  // namespace

int runStart(const ActOptions& options, const Display& display) {
  return callEach(options, display, "started", "Start");
}

int runPause(const ActOptions& options, const Display& display) {
  return callEach(options, display, "paused", "Pause");
}

int runResume(const ActOptions& options, const Display& display) {
  return callEach(options, display, "resumed", "Resume");
}

int runStop(const ActOptions& options, const Display& display) {
  return forEach(options, display, "stopped", [&](BusClient& bus, const std::string& key) -> Result<std::string> {
    USERPOD_TRY(object, bus.find(key, {"Container", "Pod"}));
    bool container = object.interface == "org.userpod1.Container";
    USERPOD_TRY(done, runJob(bus, object.path, object.interface, "Stop", stopArguments(options, container)));
    (void)done;
    return object.path;
  });
}

int runRemove(const ActOptions& options, const Display& display) {
  return forEach(options, display, "removed", [&](BusClient& bus, const std::string& key) -> Result<std::string> {
    USERPOD_TRY(object, bus.find(key, {"Container", "Pod"}));
    bool container = object.interface == "org.userpod1.Container";
    USERPOD_TRY(done, runJob(bus, object.path, object.interface, "Remove", flags(options, container)));
    (void)done;
    return object.path;
  });
}

int runRemoveImages(const ActOptions& options, const Display& display) {
  return forEach(options, display, "removed", [&](BusClient& bus, const std::string& key) -> Result<std::string> {
    USERPOD_TRY(object, bus.find(key, {"Image"}));
    USERPOD_TRY(done, runJob(bus, object.path, object.interface, "Remove", noOptions()));
    (void)done;
    return object.path;
  });
}

int runPull(const PullOptions& options, const Display& display) {
  return finish(pull(options, display), display);
}

}  // namespace userpod::ctl

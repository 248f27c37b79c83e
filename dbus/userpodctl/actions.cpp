// start, pause, resume, stop, rm: what changes pods and containers.
#include <fmt/core.h>

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

// A method of containers that answers nothing.
int callEach(const ActOptions& options, const Display& display, const char* verb, const char* method) {
  return forEach(options, display, verb, [&](BusClient& bus, const std::string& key) -> Result<std::string> {
    USERPOD_TRY(object, bus.find(key, {"Container"}));
    USERPOD_TRY(done, bus.call(object.path, object.interface.c_str(), method, flags(options, false)));
    (void)done;
    return object.path;
  });
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
    USERPOD_TRY(done, bus.runJob(object.path, object.interface, "Stop", stopArguments(options, container)));
    (void)done;
    return object.path;
  });
}

int runRemove(const ActOptions& options, const Display& display) {
  return forEach(options, display, "removed", [&](BusClient& bus, const std::string& key) -> Result<std::string> {
    USERPOD_TRY(object, bus.find(key, {"Container", "Pod"}));
    bool container = object.interface == "org.userpod1.Container";
    USERPOD_TRY(done, bus.runJob(object.path, object.interface, "Remove", flags(options, container)));
    (void)done;
    return object.path;
  });
}

}  // namespace userpod::ctl

#include "userns/scope.hpp"

#include <fmt/core.h>
#include <systemd/sd-bus.h>

#include <chrono>
#include <cstdlib>
#include <memory>
#include <vector>

namespace userpod {
namespace {

constexpr const char* kService = "org.freedesktop.systemd1";
constexpr const char* kPath = "/org/freedesktop/systemd1";
constexpr const char* kManager = "org.freedesktop.systemd1.Manager";
constexpr std::chrono::seconds kPatience{10};

struct BusClose {
  void operator()(sd_bus* bus) const { sd_bus_flush_close_unref(bus); }
};
using BusHandle = std::unique_ptr<sd_bus, BusClose>;
struct MessageUnref {
  void operator()(sd_bus_message* message) const { sd_bus_message_unref(message); }
};
using MessageHandle = std::unique_ptr<sd_bus_message, MessageUnref>;

struct EndedJob {
  std::string path;
  std::string result;
};

Result<BusHandle> openUserManager() {
  sd_bus* bus = nullptr;
  int failed = sd_bus_open_user(&bus);
  if (failed >= 0) return BusHandle(bus);
  const char* runtime = std::getenv("XDG_RUNTIME_DIR");
  if (runtime != nullptr && sd_bus_new(&bus) >= 0) {
    BusHandle direct(bus);
    std::string address = fmt::format("unix:path={}/systemd/private", runtime);
    if (sd_bus_set_address(bus, address.c_str()) >= 0 && sd_bus_start(bus) >= 0) return direct;
  }
  return Error(Code::NotReady,
               fmt::format("cannot reach the user's systemd ({}); log in with a session of your own (not "
                           "su or sudo) or set XDG_RUNTIME_DIR",
                           sysError("session bus", -failed).text()));
}

int onJobRemoved(sd_bus_message* message, void* data, sd_bus_error*) {
  std::uint32_t id = 0;
  const char *path = nullptr, *unit = nullptr, *result = nullptr;
  if (sd_bus_message_read(message, "uoss", &id, &path, &unit, &result) >= 0)
    static_cast<std::vector<EndedJob>*>(data)->push_back({path, result});
  return 0;
}

Result<std::string> startScope(sd_bus* bus, pid_t pid, const std::string& unit, const std::string& description) {
  sd_bus_message* raw = nullptr;
  int failed = sd_bus_message_new_method_call(bus, &raw, kService, kPath, kManager, "StartTransientUnit");
  if (failed < 0) return sysError("ask the user's systemd", -failed);
  MessageHandle call(raw);
  failed = sd_bus_message_append(raw, "ssa(sv)a(sa(sv))", unit.c_str(), "fail", 3, "Description", "s",
                                 description.c_str(), "CollectMode", "s", "inactive-or-failed", "PIDs", "au", 1,
                                 static_cast<std::uint32_t>(pid), 0);
  if (failed < 0) return sysError("ask the user's systemd", -failed);
  sd_bus_error error = SD_BUS_ERROR_NULL;
  sd_bus_message* answer = nullptr;
  failed = sd_bus_call(bus, raw, std::chrono::microseconds(kPatience).count(), &error, &answer);
  MessageHandle reply(answer);
  std::string text = error.message != nullptr ? error.message : "";
  sd_bus_error_free(&error);
  if (failed < 0) return Error(Code::System, fmt::format("the user's systemd starts no scope: {}", text), -failed);
  const char* job = nullptr;
  if (sd_bus_message_read(answer, "o", &job) < 0)
    return Error(Code::Internal, "the user's systemd answered without a job");
  return std::string(job);
}

}  // namespace

Status moveToUserScope(pid_t pid, const std::string& unitName, const std::string& description) {
  USERPOD_TRY(bus, openUserManager());
  std::vector<EndedJob> ended;
  int failed = sd_bus_match_signal(bus.get(), nullptr, nullptr, kPath, kManager, "JobRemoved", onJobRemoved, &ended);
  if (failed < 0) return sysError("listen to the user's systemd", -failed);
  USERPOD_TRY(job, startScope(bus.get(), pid, unitName, description));
  auto end = std::chrono::steady_clock::now() + kPatience;
  for (;;) {
    for (const auto& item : ended)
      if (item.path == job)
        return item.result == "done"
                   ? Status()
                   : Status(Error(Code::System, "the user's systemd could not move the process: " + item.result));
    auto left = std::chrono::duration_cast<std::chrono::microseconds>(end - std::chrono::steady_clock::now()).count();
    if (left <= 0) return Error(Code::Timeout, "the user's systemd did not finish the scope in time");
    failed = sd_bus_process(bus.get(), nullptr);
    if (failed == 0) failed = sd_bus_wait(bus.get(), static_cast<std::uint64_t>(left));
    if (failed < 0 && failed != -EINTR) return sysError("talk to the user's systemd", -failed);
  }
}

}  // namespace userpod

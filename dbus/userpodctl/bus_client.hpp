// The session bus as the command line needs it: calls to org.userpod1, answers as JSON, jobs with their progress.
// sd-bus itself, not sdbus-c++: what is shown is whatever types the daemon sends, and that library wants them
// beforehand.
#pragma once

#include <systemd/sd-bus.h>

#include <functional>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "daemon/sys/error.hpp"

namespace userpod::ctl {

using Json = nlohmann::ordered_json;

inline constexpr const char* kRootPath = "/org/userpod1";
inline constexpr const char* kManager = "org.userpod1.Manager";

// Appends the arguments of a call; returns what sd_bus_message_append returns.
using Arguments = std::function<int(sd_bus_message*)>;

// Dictionaries become objects, structs and arrays arrays, several results an array of them; bytes are numbers.
Result<Json> messageToJson(sd_bus_message* message);
// What D-Bus carries as bytes turned into text: Addresses, Command, WorkingDirectory.
void readable(Json& properties);

// Properties as text and numbers; "" and 0 when there is none, or none of that kind.
std::string text(const Json& properties, const char* name);
std::uint64_t number(const Json& properties, const char* name);
std::string firstOf(const Json& properties, const char* name);  // of a list of texts

class BusClient {
 public:
  // NotReady, with the mend, where there is no session bus. One thread.
  static Result<BusClient> open();

  // `activate` false: an error (NotReady) instead of starting the daemon.
  Result<Json> call(const std::string& path, const char* interface, const char* member, const Arguments& arguments = {},
                    bool activate = true);
  Result<Json> properties(const std::string& path, const char* interface, bool activate = true);
  // Object of a pod, container or image: {path, interface}. `kinds`: "Pod", "Container", "Image", asked in this order.
  struct Object {
    std::string path;
    std::string interface;
  };
  Result<Object> find(const std::string& key, const std::vector<std::string>& kinds);

  // [[path, properties], ...] of a List method as [properties with Path first, ...]. fields: those that are asked for;
  // none: all. Of thousands of objects that makes the time.
  Result<Json> list(const char* method, const std::vector<const char*>& fields = {}, bool activate = true);

  struct JobWatch {
    std::function<void(const Json&)> progress;  // sees the job's properties, then those that changed, the last ones too
    std::function<void()> interrupted;          // the job has been asked to stop
  };
  // Calls a method that returns (u id, o job), waits for the job's end and returns its result. SIGINT and SIGTERM
  // cancel the job, and a second one ends the wait.
  Result<Json> runJob(const std::string& path, const std::string& interface, const char* method,
                      const Arguments& arguments, const JobWatch& watch = {});

 private:
  struct Close {
    void operator()(sd_bus* bus) const { sd_bus_flush_close_unref(bus); }
  };
  Result<Json> waitForJob(const std::string& job, const JobWatch& watch);
  explicit BusClient(sd_bus* bus) : bus_(bus) {}
  std::unique_ptr<sd_bus, Close> bus_;
};

// An options argument (a{sv}) of booleans that are true.
Arguments trueOptions(const std::vector<std::string>& names);
inline Arguments noOptions() {
  return trueOptions({});
}

}  // namespace userpod::ctl

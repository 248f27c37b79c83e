// live.db: pods and containers of this boot, in the runtime directory. Written at every change before it is published;
// not synced to disk: it goes with the runtime directory, as pods do.
#pragma once

#include <sys/types.h>

#include <chrono>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "daemon/store/model.hpp"
#include "daemon/store/sqlite.hpp"
#include "daemon/sys/error.hpp"
#include "policy/settings.hpp"

namespace userpod::store {

// Used by one thread (the core strand) at a time.
class LiveStore {
 public:
  // A database that cannot be read is set aside as live.db.damaged and a new one begun.
  static Result<std::unique_ptr<LiveStore>> open(const std::string& path);

  struct Content {
    std::vector<PodRecord> pods;
    std::vector<ContainerRecord> containers;
    std::map<std::string, std::int64_t> freedAddresses;  // of pods removed within the last hour, and when (bootNanos)
  };
  Result<Content> load();
  // What the file has now, by a connection of its own that only reads: any thread.
  static Result<Content> read(const std::string& path);
  Status putPod(const PodRecord& pod);
  Status removePod(const std::string& id);
  Status putFreedAddresses(const std::vector<std::string>& addresses, std::int64_t now);
  Status putContainer(const ContainerRecord& container);
  Status removeContainer(const std::string& id);
  // All of it anew, in one transaction: after writes that failed.
  Status replace(const Content& content);
  // The same in a new file, which takes the place of the old one, damaged or gone, when it is complete: until then
  // nothing is changed. After a failure later than that replace() goes on with the new file.
  Status rebuild(const Content& content);

 private:
  LiveStore(Database database, std::string path) : database_(std::move(database)), path_(std::move(path)) {}
  static Result<Database> connect(const std::string& path);
  static Result<std::unique_ptr<LiveStore>> openWhole(const std::string& path);
  Status prepare();

  Database database_;
  std::string path_;
};

// A running container, as the node's stop needs it: read without the daemon.
struct DrainTarget {
  std::string id;
  std::string name;
  pid_t pid = 0;               // in the node's PID namespace
  std::uint64_t pidStart = 0;  // field 22 of /proc/PID/stat
  int stopSignal = 15;
  std::chrono::milliseconds grace{10000};
};
// What runs according to the live store; empty when there is none. Opens the database read-only.
Result<std::vector<DrainTarget>> drainTargets(const Paths& paths);

// The grace period kubelet gave the pod (annotation io.kubernetes.pod.terminationGracePeriod, seconds), else 10 s.
std::chrono::milliseconds stopGrace(const ContainerConfig& config);

}  // namespace userpod::store

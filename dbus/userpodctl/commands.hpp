// The commands of userpodctl. Each prints its own output and, on standard error, its own errors, and returns the exit
// status of the program: 0, or exitStatus() of what failed.
#pragma once

#include <chrono>
#include <string>
#include <vector>

#include "daemon/sys/error.hpp"

namespace userpod::ctl {

// How to print; set from the command line.
struct Display {
  bool json = false;
  bool color = false;
};

// "userpodctl: text" on standard error, or a JSON object there; returns the exit status of its code.
int fail(const Error& error, const Display& display);
int finish(const Status& status, const Display& display);

// Without daemon and bus.
int runDoctor(const Display& display);  // 1 when a check is an error
int runReset(bool yes, const Display& display);
int runEnter(const std::vector<std::string>& command, const Display& display);

struct CheckCommand {
  bool repair = false;
  bool deep = false;
  bool yes = false;  // do not ask
};
// Over the bus where the daemon runs, else what can be seen without one. 1: something is left that is not repaired.
int runCheck(const CheckCommand& options, const Display& display);

// Over the bus, which starts the daemon when it does not run; status leaves it alone.
int runStatus(const Display& display);
int runPods(const Display& display);
int runContainers(const Display& display);
struct ImagesOptions {
  bool digests = false;
  bool quiet = false;    // ids alone
  bool noTrunc = false;  // whole ids and digests
};
int runImages(const ImagesOptions& options, const Display& display);
// kinds: as of BusClient::find.
int runInspect(const std::string& key, const std::vector<std::string>& kinds, const Display& display);
// key: of the pod that it is explained for; empty: for any.
int runNetwork(const std::string& key, const Display& display);

struct TopOptions {
  std::string sort = "cpu";  // memory, name, pids, io, net
  std::chrono::milliseconds interval{2000};
  bool once = false;  // one table, of two moments
};
int runTop(const TopOptions& options, const Display& display);

struct ActOptions {
  std::vector<std::string> keys;  // ids, prefixes of ids; references for images
  long long grace = -1;           // seconds; -1: the container's own
  bool force = false;             // kill first
  bool forceManaged = false;      // also what a kubelet manages
};
int runStart(const ActOptions& options, const Display& display);
int runPause(const ActOptions& options, const Display& display);
int runResume(const ActOptions& options, const Display& display);
int runStop(const ActOptions& options, const Display& display);
int runRemove(const ActOptions& options, const Display& display);
int runRemoveImages(const ActOptions& options, const Display& display);

struct PullOptions {
  std::string image;
  std::string username;
  bool passwordStdin = false;  // reads the password from standard input: arguments are seen by others
  bool identityTokenStdin = false;
  bool quiet = false;  // prints the id alone
};
int runPull(const PullOptions& options, const Display& display);

struct PruneOptions {
  bool all = false;
  bool dryRun = false;
  bool yes = false;  // do not ask
};
int runPruneImages(const PruneOptions& options, const Display& display);

}  // namespace userpod::ctl

// The node's way out: pasta or slirp4netns on the tap that the node made, kept alive by the holder.
#pragma once

#include <poll.h>

#include <chrono>
#include <optional>
#include <string>
#include <vector>

#include "daemon/sys/child.hpp"
#include "policy/settings.hpp"
#include "userns/uplink_program.hpp"

namespace userpod {

// <runtime>/node/uplink.json, for the NetworkReady condition and doctor.
struct UplinkState {
  enum class Phase { Up, Down, None };  // None: the settings ask for no uplink
  Phase phase = Phase::Down;
  std::string reason;   // of Down: what failed and how to mend it
  std::string program;  // the path of what runs or ran; may be empty
  std::string choice;   // why this program
};
// Down with a reason when the file is missing or broken. Works on the host and in the node; any thread.
UplinkState readUplinkState(const Paths& paths);
Status writeUplinkState(const Paths& paths, const UplinkState& state);

// Runs in the holder's single-threaded poll loop; a dead uplink comes back after 0.1 s, then twice as long up to 10 s.
class Uplink {
 public:
  // cgroup: O_DIRECTORY descriptor of the leaf that it is born in. program has a path. fallback, which may have none:
  // what takes over when the program ends before it has ever served.
  Uplink(const Paths& paths, int cgroup, UplinkProgram program, UplinkProgram fallback, UplinkPlan plan)
      : paths_(paths),
        cgroup_(cgroup),
        program_(std::move(program)),
        fallback_(std::move(fallback)),
        plan_(std::move(plan)) {}

  void start();
  // Whether it is up or has failed once: the node is then ready either way.
  bool settled() const { return settled_; }
  // The host's name servers have changed: pasta, which does not look for itself, starts anew.
  void setServers(const NameServers& servers);
  void addTo(std::vector<pollfd>& entries) const;
  int timeout() const;  // milliseconds to the next start, -1 for none
  void handle(const std::vector<pollfd>& entries);
  void stop();  // ends the child and waits for it

 private:
  using Clock = std::chrono::steady_clock;

  Status launch();
  void onReady();
  void onDeath();
  void failed(const std::string& reason);
  void readMessages();
  void publish(UplinkState::Phase phase, const std::string& reason);

  Paths paths_;
  int cgroup_;
  UplinkProgram program_;
  UplinkProgram fallback_;
  UplinkPlan plan_;
  Child child_;
  UniqueFd ready_;     // something to read when it serves; end of file instead is its failure
  UniqueFd exit_;      // slirp4netns ends when this end closes
  UniqueFd messages_;  // its standard error
  std::string text_;   // the last of it
  bool up_ = false;
  bool served_ = false;    // this program, at any time
  bool renewing_ = false;  // it ends because it was told to, for a new start
  bool settled_ = false;
  std::chrono::milliseconds delay_{100};
  Clock::time_point upSince_;
  std::optional<Clock::time_point> retry_;
};

}  // namespace userpod

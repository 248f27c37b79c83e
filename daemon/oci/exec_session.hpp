// One command in a container, from its cgroup to its end: what is the same with and without a caller on its streams.
#pragma once

#include "daemon/oci/exec.hpp"

namespace userpod::oci {

// Everything on the loop. Ends by fail() or cancel() or, after the runtime's process has ended, by ended().
class ExecLoop::Session : public std::enable_shared_from_this<Session> {
 public:
  struct Command {
    std::string id;  // of the container
    std::string bundle;
    std::vector<std::string> words;
  };
  Session(ExecLoop& loop, const Handler& handler, Command command)
      : loop_(loop), handler_(handler), command_(std::move(command)) {}
  virtual ~Session() = default;
  Session(const Session&) = delete;
  Session& operator=(const Session&) = delete;

  void begin();
  // Ends it at whatever point it is: gives everything back, and answers. The runtime's process is killed, the command
  // by fail() only.
  void fail(Error error);
  void cancel(Error error);

 protected:
  // With userpod-exec in front of the runtime, which leaves as soon as the command runs.
  virtual bool detached(const Template& pattern) const { return pattern.ofNode; }
  virtual std::string gate() const { return "-"; }   // for userpod-exec, a descriptor's number
  virtual std::string begun() const { return "-"; }  // likewise
  virtual std::string process(const Template& pattern) const { return pattern.process; }  // JSON, without args
  // Adds the command's descriptors, its ends of which are kept in childEnds_, and options of the runtime.
  virtual Status prepare(SpawnOptions& options) = 0;
  virtual Status spawned() = 0;
  virtual void ended(std::int32_t code) = 0;  // the runtime's process, with the code of its command
  virtual void closeStreams() = 0;            // child_: whether the runtime's process still runs
  virtual void answer(Error error) = 0;       // after everything has been given back

  // Kills the command with all that it has started, and the runtime when it does not end by that; then answers.
  void kill(Error why);
  void release();
  // Why the command was not started; nothing when it was.
  std::optional<Error> notStarted(std::int32_t code) const;

  ExecLoop& loop_;
  const Handler& handler_;
  const Command command_;
  std::uint64_t number_ = 0;
  std::string cgroup_;  // of this exec alone, below the node's root: its kill reaches whatever the command has started
  std::vector<UniqueFd> childEnds_;
  Child child_;  // the runtime, or userpod-exec: waits for the command
  EventLoop::TimerId timer_ = 0;
  std::optional<Error> failure_;  // why it was killed

 private:
  Status launch();
  Status makeCgroup(const Template& pattern);
  void detach(SpawnOptions& options);
  void childEnded();
  void killAgain(bool runtimeToo);
  void removeCgroup(std::chrono::milliseconds retry);

  std::string pidFile_;  // where userpod-exec reads the command's number
  UniqueFd log_;         // the runtime's own words, apart from the command's
};

}  // namespace userpod::oci

// A reload from outside: `userpodd --reload` sends SIGHUP and waits for what becomes of it. A signal carries no answer,
// so that goes by two files in <runtime>/reload: `request` names this reload, `outcome` the one it answers.
#pragma once

#include <sys/types.h>

#include <chrono>
#include <string>

#include "daemon/sys/error.hpp"

namespace userpod {

struct ReloadOutcome {
  int status = 0;    // exit status of the command
  std::string text;  // for people
};

// Signals the daemon and waits for its answer. Blocks, also for another such request. NotReady: it ended meanwhile.
// Timeout: it did not answer in time.
Result<ReloadOutcome> requestReload(const std::string& runtime, pid_t daemon, std::chrono::seconds patience);

// Of the daemon. The request that counts is read before the settings are.
std::string reloadRequest(const std::string& runtime);  // empty: nobody waits
Status answerReload(const std::string& runtime, const std::string& request, const ReloadOutcome& outcome);

}  // namespace userpod

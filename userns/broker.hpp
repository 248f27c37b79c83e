// What only a process in the host's namespaces can see, asked by the inner daemon over the socketpair to its outer.
#pragma once

#include <sys/types.h>

#include <mutex>

#include "daemon/sys/fd.hpp"

namespace userpod {

class Broker {
 public:
  explicit Broker(UniqueFd socket) : socket_(std::move(socket)) {}

  // The host's number of a process of the node (as SCM_CREDENTIALS translates it). Any thread; blocks for microseconds,
  // at most one second.
  Result<pid_t> hostPid(pid_t nodePid);
  // Whether the host process (a bus caller) is in an application sandbox (Flatpak, Snap).
  Result<bool> sandboxed(pid_t hostPid);

 private:
  std::mutex mutex_;
  UniqueFd socket_;
};

// The outer's side: answers requests until the socket closes. Called from the outer's poll loop when readable.
Status answerBrokerRequest(int socket);

}  // namespace userpod

// The daemon proper, executed by userpodd's outer process inside the node with the number of the broker's socket.
#include <fcntl.h>
#include <fmt/core.h>

#include <cstdlib>

#include "daemon/daemon.hpp"
#include "daemon/sys/error.hpp"

int main(int argc, char** argv) {
  char* end = nullptr;
  long socket = argc == 2 ? std::strtol(argv[1], &end, 10) : -1;
  if (argc != 2 || *end != '\0' || socket < 3 || ::fcntl(static_cast<int>(socket), F_SETFD, FD_CLOEXEC) < 0) {
    fmt::print(stderr, "userpodd-inner is started by userpodd: systemctl --user start userpod.service\n");
    return userpod::exitStatus(userpod::Code::InvalidArgument);
  }
  return userpod::runDaemon(userpod::UniqueFd(static_cast<int>(socket)));
}

// userpod-pull: asks registries, for one pull of the daemon at the other end of descriptor 3. It reads the user's
// containers configuration and credentials, and writes nothing but what it is given descriptors for.
#include <signal.h>
#include <sys/prctl.h>

#include "daemon/images/transfer/transfer.hpp"
#include "daemon/sys/fd.hpp"
#include "daemon/sys/log.hpp"
#include "daemon/sys/privileges.hpp"

namespace {

constexpr int kChannel = 3;

}  // namespace

int main(int argc, char**) {
  if (argc != 1 || ::fcntl(kChannel, F_SETFD, FD_CLOEXEC) < 0) {
    userpod::logError("userpod-pull: started by userpod's daemon only");
    return 64;
  }
  ::signal(SIGPIPE, SIG_IGN);
  // It holds passwords; and it goes first when memory runs out.
  (void)userpod::writeFile("/proc/self/oom_score_adj", "1000");
  ::prctl(PR_SET_DUMPABLE, 0, 0, 0, 0);
  userpod::Status status = userpod::keepCapabilities(0);
  if (status) {
    userpod::images::Channel channel{userpod::UniqueFd(kChannel)};
    status = userpod::images::serveTransfer(channel);
  }
  if (status) return 0;
  userpod::logError("userpod-pull: {}", status.error().text());
  return userpod::exitStatus(status.error().code());
}

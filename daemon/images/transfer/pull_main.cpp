// userpod-pull DATA: asks registries, for one pull of the daemon at the other end of descriptor 3. It reads the user's
// containers configuration and credentials, and writes nothing but what it is given descriptors for. DATA is userpod's
// data directory, whose mounts it leaves alone.
#include <linux/capability.h>
#include <signal.h>
#include <sys/prctl.h>

#include "daemon/images/transfer/transfer.hpp"
#include "daemon/sys/fd.hpp"
#include "daemon/sys/log.hpp"
#include "daemon/sys/privileges.hpp"

namespace {

constexpr int kChannel = 3;

}  // namespace

int main(int argc, char** argv) {
  if (argc != 2 || ::fcntl(kChannel, F_SETFD, FD_CLOEXEC) < 0) {
    userpod::logError("userpod-pull: started by userpod's daemon only");
    return 64;
  }
  ::signal(SIGPIPE, SIG_IGN);
  // It holds passwords; and it goes first when memory runs out.
  (void)userpod::writeFile("/proc/self/oom_score_adj", "1000");
  ::prctl(PR_SET_DUMPABLE, 0, 0, 0, 0);
  // To confine itself, once it has the order.
  userpod::Status status = userpod::keepCapabilities(1U << CAP_SYS_ADMIN);
  if (status) {
    userpod::images::Channel channel{userpod::UniqueFd(kChannel)};
    status = userpod::images::serveTransfer(channel, argv[1]);
  }
  if (status) return 0;
  userpod::logError("userpod-pull: {}", status.error());
  return userpod::exitStatus(status.error().code());
}

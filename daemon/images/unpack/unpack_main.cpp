// userpod-unpack ORDER: unpacks one layer. Started by the daemon, in the node's user namespace, with the compressed
// bytes on descriptor 0, descriptor 1 for the outcome, the directory on 3 and the pull's counters on 4. It touches no
// byte before it is confined.
#include <malloc.h>
#include <signal.h>
#include <sys/mman.h>
#include <unistd.h>

#include "daemon/images/digest.hpp"
#include "daemon/images/unpack/confine.hpp"
#include "daemon/images/unpack/layer_stream.hpp"
#include "daemon/sys/fd.hpp"
#include "daemon/sys/log.hpp"

namespace userpod::images {
namespace {

constexpr int kDirectory = 3;
constexpr int kCounters = 4;

Result<Unpacked> work(const char* text) {
  USERPOD_TRY(order, parseOrder(text));
  void* shared = ::mmap(nullptr, sizeof(UnpackCounters), PROT_READ | PROT_WRITE, MAP_SHARED, kCounters, 0);
  if (shared == MAP_FAILED) return sysError("map the pull's counters");
  ::close(kCounters);
  // Digests are of a provider that is loaded at first use.
  (void)Sha256();
  // It goes first when memory runs out.
  (void)writeFile("/proc/self/oom_score_adj", "1000");
  USERPOD_CHECK(confine(kDirectory));
  return unpackStream(STDIN_FILENO, kDirectory, order, *static_cast<UnpackCounters*>(shared));
}

}  // namespace
}  // namespace userpod::images

int main(int argc, char** argv) {
  if (argc != 2) {
    userpod::logError("userpod-unpack ORDER: started by userpod's daemon only");
    return 64;
  }
  ::signal(SIGPIPE, SIG_IGN);
  // Blocks are of one size and go round: kept in the heap, they are not mapped and cleared anew each time.
  ::mallopt(M_MMAP_THRESHOLD, 8 << 20);
  ::mallopt(M_TRIM_THRESHOLD, 16 << 20);
  auto outcome = userpod::images::outcomeText(userpod::images::work(argv[1]));
  auto told = userpod::writeAll(STDOUT_FILENO, outcome);
  // Without what the libraries do at the end, which the confined process may not do.
  ::_exit(told ? 0 : 71);
}

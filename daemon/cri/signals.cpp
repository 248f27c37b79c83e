#include "daemon/cri/signals.hpp"

#include <csignal>
#include <iterator>

namespace userpod::cri {
namespace {

// Index: the contract's value. The kernel's numbers differ between architectures, so the names decide.
constexpr int kSignals[] = {0,         SIGABRT,  SIGALRM, SIGBUS,  SIGCHLD, SIGCHLD, SIGCONT, SIGFPE, SIGHUP,  SIGILL,
                            SIGINT,    SIGIO,    SIGABRT, SIGKILL, SIGPIPE, SIGPOLL, SIGPROF, SIGPWR, SIGQUIT, SIGSEGV,
#ifdef SIGSTKFLT
                            SIGSTKFLT,
#else
                            -1,
#endif
                            SIGSTOP,   SIGSYS,   SIGTERM, SIGTRAP, SIGTSTP, SIGTTIN, SIGTTOU, SIGURG, SIGUSR1, SIGUSR2,
                            SIGVTALRM, SIGWINCH, SIGXCPU, SIGXFSZ};
constexpr int kNamed = static_cast<int>(std::size(kSignals));  // 35: SIGNAL_SIGRTMIN

// Real-time signals, counted as the C library does: SIGRTMIN is 34, SIGRTMAX 64. Constants, since the SIGRTMIN macro is
// a call that other C libraries answer differently, while the names in images and requests mean these.
constexpr int kFirstRealTime = 34;
constexpr int kLastRealTime = 64;
constexpr int kRealTimeShift = 1;  // the contract's value minus the kernel's number
static_assert(kNamed == kFirstRealTime + kRealTimeShift);

}  // namespace

int toKernelSignal(int criSignal) {
  if (criSignal < 0 || criSignal > kLastRealTime + kRealTimeShift) return -1;
  return criSignal < kNamed ? kSignals[criSignal] : criSignal - kRealTimeShift;
}

int toCriSignal(int kernelSignal) {
  if (kernelSignal >= kFirstRealTime && kernelSignal <= kLastRealTime) return kernelSignal + kRealTimeShift;
  for (int value = 1; value < kNamed; ++value)
    if (kSignals[value] == kernelSignal) return value;
  return 0;
}

}  // namespace userpod::cri

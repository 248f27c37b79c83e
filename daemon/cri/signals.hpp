// The contract's signals and the kernel's.
#pragma once

namespace userpod::cri {

// Kernel number of a v1::Signal; 0 for the default (0), -1 for a value that the contract does not know.
int toKernelSignal(int criSignal);
// The v1::Signal of a kernel number; 0 when it has none.
int toCriSignal(int kernelSignal);

}  // namespace userpod::cri

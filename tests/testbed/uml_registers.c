// Preloaded into user-mode-linux where it is older than the processor. It keeps the register state of processes that it
// traces in a buffer of the size that the AVX-512 processors of its time had, and gives that back by PTRACE_SETREGSET;
// the kernel of a processor with more (AMX) refuses all but the whole state with EFAULT, and the machine ends at its
// first process. Here the part that is missing is added: as it is at that moment, since nothing in the machine, which
// knows no AMX, uses it.
// fact: xstateregs_set() in arch/x86/kernel/fpu/regset.c, put_fp_registers() in arch/x86/um/os-Linux/registers.c.
#define _GNU_SOURCE
#include <elf.h>
#include <stdarg.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

// The whole state is some 11 KB with AMX. One thread of user-mode-linux traces.
static char whole[1 << 16] __attribute__((aligned(64)));

static long call(long request, pid_t pid, void *address, void *data) {
  return syscall(SYS_ptrace, request, (long)pid, address, data);
}

long ptrace(enum __ptrace_request request, ...) {
  va_list list;
  va_start(list, request);
  pid_t pid = va_arg(list, pid_t);
  void *address = va_arg(list, void *);
  void *data = va_arg(list, void *);
  va_end(list);
  // The system call puts the word where `data` points to, the function returns it: ptrace(2), C library differences.
  if (request == PTRACE_PEEKTEXT || request == PTRACE_PEEKDATA || request == PTRACE_PEEKUSER) {
    long word = 0;
    long result = call(request, pid, address, &word);
    return result < 0 ? result : word;
  }
  if (request == PTRACE_SETREGSET && (long)address == NT_X86_XSTATE) {
    const struct iovec *given = data;
    struct iovec all = {whole, sizeof whole};
    if (call(PTRACE_GETREGSET, pid, address, &all) < 0) return -1;
    if (given->iov_len < all.iov_len) {
      memcpy(whole, given->iov_base, given->iov_len);
      return call(request, pid, address, &all);
    }
  }
  return call(request, pid, address, data);
}

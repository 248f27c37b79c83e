// Processor time that was used.
#pragma once

#include <chrono>
#include <ctime>

namespace userpod {

inline std::chrono::nanoseconds cpuTime(clockid_t clock) {
  timespec used{};
  ::clock_gettime(clock, &used);
  return std::chrono::seconds(used.tv_sec) + std::chrono::nanoseconds(used.tv_nsec);
}

inline std::chrono::nanoseconds threadCpuTime() {  // of the calling thread
  return cpuTime(CLOCK_THREAD_CPUTIME_ID);
}
inline std::chrono::nanoseconds processCpuTime() {  // of all threads, since the start
  return cpuTime(CLOCK_PROCESS_CPUTIME_ID);
}

}  // namespace userpod

// Paths of /proc and /sys that containers do not see or cannot write, as CRI-O and containerd choose them.
#pragma once

#include <array>

namespace userpod::policy {

inline constexpr std::array kMaskedPaths = {"/proc/acpi",
                                            "/proc/asound",
                                            "/proc/interrupts",
                                            "/proc/kcore",
                                            "/proc/keys",
                                            "/proc/latency_stats",
                                            "/proc/sched_debug",
                                            "/proc/scsi",
                                            "/proc/timer_list",
                                            "/proc/timer_stats",
                                            "/sys/devices/virtual/powercap",
                                            "/sys/firmware"};
inline constexpr std::array kReadonlyPaths = {"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"};

}  // namespace userpod::policy

// The files of one cgroup v2, and what their texts mean. Where a file or a name is missing, or its text is not
// understood, the figure is absent.
// facts: Documentation/admin-guide/cgroup-v2.rst, Documentation/accounting/psi.rst.
#pragma once

#include <array>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "daemon/stats/figures.hpp"
#include "daemon/sys/fd.hpp"

namespace userpod::stats {

Figure parseNumber(std::string_view text);  // of a file with one; "max", which is no limit, is absent
std::optional<Pressure> parsePressure(std::string_view text);
CpuFigures parseCpu(std::string_view text);                        // cpu.stat
void parseMemoryStat(std::string_view text, MemoryFigures& into);  // after usage and limit
void parseMemoryEvents(std::string_view text, MemoryFigures& into);
std::vector<DeviceIo> parseIo(std::string_view text);
Figure parseDescendants(std::string_view text);  // of cgroup.stat: how many cgroups are below, on all levels

// Reads cgroups, one at a time: by one thread, and made for the time of some reads.
class CgroupReader {
 public:
  // Some ten files for Detail::Usual. Absent: there is no such cgroup, or it went away meanwhile.
  std::optional<CgroupFigures> read(const std::string& path, Detail detail);

 private:
  std::optional<std::string_view> text(const char* name);  // until the next call
  Figure number(const char* name);
  std::optional<Pressure> pressure(const char* name);
  void readMemory(MemoryFigures& memory, Detail detail);

  UniqueFd directory_;
  std::array<char, 16384> buffer_;
};

}  // namespace userpod::stats

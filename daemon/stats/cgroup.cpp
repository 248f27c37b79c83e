#include "daemon/stats/cgroup.hpp"

#include <unistd.h>

#include <charconv>
#include <limits>

#include "daemon/sys/util.hpp"

namespace userpod::stats {
namespace {

constexpr std::uint64_t kNanosOfMicro = 1000;

// The text up to the separator, which is taken off with it; all of it where there is none.
std::string_view takeUntil(std::string_view& text, char separator) {
  auto end = text.find(separator);
  auto part = text.substr(0, end);
  text.remove_prefix(end == std::string_view::npos ? text.size() : end + 1);
  return part;
}

template <typename Number>
std::optional<Number> wholeNumber(std::string_view text) {
  Number value{};
  auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size()) return std::nullopt;
  return value;
}

Figure toNanos(Figure micros) {
  if (!micros || *micros > std::numeric_limits<std::uint64_t>::max() / kNanosOfMicro) return std::nullopt;
  return *micros * kNanosOfMicro;
}

struct Name {
  std::string_view name;
  Figure* figure;
};

// Lines of a name and a number.
template <std::size_t Count>
void parseNamed(std::string_view text, const std::array<Name, Count>& names) {
  while (!text.empty()) {
    auto value = takeUntil(text, '\n');
    auto name = takeUntil(value, ' ');
    for (const auto& wanted : names)
      if (wanted.name == name) *wanted.figure = parseNumber(value);
  }
}

// avg10=0.12 avg60=0.00 avg300=0.00 total=4711
Pressure::Share parseShare(std::string_view text) {
  Pressure::Share share;
  while (!text.empty()) {
    auto value = takeUntil(text, ' ');
    auto name = takeUntil(value, '=');
    if (name == "avg10") share.avg10 = wholeNumber<double>(value).value_or(0);
    if (name == "avg60") share.avg60 = wholeNumber<double>(value).value_or(0);
    if (name == "avg300") share.avg300 = wholeNumber<double>(value).value_or(0);
    if (name == "total") share.total = parseNumber(value).value_or(0);
  }
  return share;
}

}  // namespace

Figure parseNumber(std::string_view text) {
  return wholeNumber<std::uint64_t>(trim(text));
}

Figure parseDescendants(std::string_view text) {
  Figure descendants;
  parseNamed(text, std::array{Name{"nr_descendants", &descendants}});
  return descendants;
}

std::optional<Pressure> parsePressure(std::string_view text) {
  Pressure pressure;
  bool found = false;
  while (!text.empty()) {
    auto line = takeUntil(text, '\n');
    auto who = takeUntil(line, ' ');
    if (who != "some" && who != "full") continue;
    (who == "some" ? pressure.some : pressure.full) = parseShare(line);
    found = true;
  }
  return found ? std::optional(pressure) : std::nullopt;
}

CpuFigures parseCpu(std::string_view text) {
  CpuFigures cpu;
  parseNamed(text, std::array<Name, 6>{{{"usage_usec", &cpu.usage},
                                        {"user_usec", &cpu.user},
                                        {"system_usec", &cpu.system},
                                        {"nr_periods", &cpu.periods},
                                        {"nr_throttled", &cpu.throttledPeriods},
                                        {"throttled_usec", &cpu.throttledTime}}});
  for (auto* time : {&cpu.usage, &cpu.user, &cpu.system, &cpu.throttledTime}) *time = toNanos(*time);
  return cpu;
}

void parseMemoryStat(std::string_view text, MemoryFigures& into) {
  Figure inactive;
  parseNamed(text, std::array<Name, 7>{{{"anon", &into.anonymous},
                                        {"file", &into.cache},
                                        {"file_mapped", &into.mappedFile},
                                        {"kernel", &into.kernel},
                                        {"inactive_file", &inactive},
                                        {"pgfault", &into.pageFaults},
                                        {"pgmajfault", &into.majorPageFaults}}});
  if (!into.usage || !inactive) return;
  into.workingSet = *into.usage > *inactive ? *into.usage - *inactive : 0;
  if (into.limit) into.available = *into.limit > *into.workingSet ? *into.limit - *into.workingSet : 0;
}

void parseMemoryEvents(std::string_view text, MemoryFigures& into) {
  parseNamed(text, std::array<Name, 2>{{{"max", &into.limitHits}, {"oom_kill", &into.oomKills}}});
}

// 8:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=5 dios=6
std::vector<DeviceIo> parseIo(std::string_view text) {
  std::vector<DeviceIo> devices;
  while (!text.empty()) {
    auto line = takeUntil(text, '\n');
    auto minor = takeUntil(line, ' ');
    auto major = wholeNumber<std::uint32_t>(takeUntil(minor, ':'));
    auto minorNumber = wholeNumber<std::uint32_t>(minor);
    if (!major || !minorNumber) continue;
    DeviceIo device{.major = *major, .minor = *minorNumber};
    while (!line.empty()) {
      auto value = takeUntil(line, ' ');
      auto name = takeUntil(value, '=');
      auto number = parseNumber(value).value_or(0);
      if (name == "rbytes") device.readBytes = number;
      if (name == "wbytes") device.writtenBytes = number;
      if (name == "rios") device.reads = number;
      if (name == "wios") device.writes = number;
    }
    devices.push_back(device);
  }
  return devices;
}

// One read is the whole text: the kernel makes it at once, as large as the buffer takes.
std::optional<std::string_view> CgroupReader::text(const char* name) {
  UniqueFd file(::openat(directory_.get(), name, O_RDONLY | O_CLOEXEC));
  if (!file) return std::nullopt;
  ssize_t size = ::read(file.get(), buffer_.data(), buffer_.size());
  if (size < 0) return std::nullopt;
  std::string_view text(buffer_.data(), static_cast<std::size_t>(size));
  // Of one that is longer, the last line is cut.
  return text.size() < buffer_.size() ? text : text.substr(0, text.rfind('\n') + 1);
}

Figure CgroupReader::number(const char* name) {
  auto found = text(name);
  return found ? parseNumber(*found) : std::nullopt;
}

std::optional<Pressure> CgroupReader::pressure(const char* name) {
  auto found = text(name);
  return found ? parsePressure(*found) : std::nullopt;
}

void CgroupReader::readMemory(MemoryFigures& memory, Detail detail) {
  memory.pressure = pressure("memory.pressure");
  memory.usage = number("memory.current");
  if (!memory.usage) return;  // no controller, none of the others
  memory.limit = number("memory.max");
  if (auto stat = text("memory.stat")) parseMemoryStat(*stat, memory);
  memory.swap = number("memory.swap.current");
  if (memory.swap) memory.swapLimit = number("memory.swap.max");
  if (detail == Detail::Usual) return;
  memory.peak = number("memory.peak");
  if (auto events = text("memory.events")) parseMemoryEvents(*events, memory);
}

std::optional<CgroupFigures> CgroupReader::read(const std::string& path, Detail detail) {
  directory_.reset(::open(path.c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC));
  if (!directory_) return std::nullopt;
  CgroupFigures figures;
  readMemory(figures.memory, detail);
  figures.tasks = number("pids.current");
  figures.io.pressure = pressure("io.pressure");
  if (detail == Detail::All) {
    if (figures.tasks) figures.tasksLimit = number("pids.max");
    if (auto io = text("io.stat")) figures.io.devices = parseIo(*io);
  }
  auto cpuPressure = pressure("cpu.pressure");
  // Every cgroup has this one: where it cannot be read, the cgroup has gone, and with it maybe some of the others.
  // Its time is that of the figures: clients reckon rates of processor time by it.
  figures.timestamp = nowNanos();
  auto cpu = text("cpu.stat");
  directory_.reset();
  if (!cpu) return std::nullopt;
  figures.cpu = parseCpu(*cpu);
  figures.cpu.pressure = cpuPressure;
  return figures;
}

}  // namespace userpod::stats

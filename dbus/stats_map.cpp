#include "dbus/stats_map.hpp"

#include <algorithm>

#include "dbus/paths.hpp"

namespace userpod::bus {
namespace {

template <typename T>
void putFigure(VariantMap& map, const char* key, const T& value) {
  map.emplace(key, sdbus::Variant{value});
}

void putFigure(VariantMap& map, const char* key, const stats::Figure& figure) {
  if (figure) map.emplace(key, sdbus::Variant{*figure});
}

std::uint64_t microsOf(std::int64_t nanoseconds) {
  return static_cast<std::uint64_t>(std::max<std::int64_t>(nanoseconds, 0)) / 1000;
}

void putPressure(VariantMap& map, const std::string& what, const std::optional<stats::Pressure>& pressure) {
  if (!pressure) return;
  map.emplace(what + "-pressure-some", sdbus::Variant{pressure->some.avg10});
  map.emplace(what + "-pressure-full", sdbus::Variant{pressure->full.avg10});
  map.emplace(what + "-pressure-usec", sdbus::Variant{pressure->some.total});
}

void putCpu(VariantMap& map, const stats::CpuFigures& cpu) {
  putFigure(map, "cpu-usage-nsec", cpu.usage);
  putFigure(map, "cpu-user-nsec", cpu.user);
  putFigure(map, "cpu-system-nsec", cpu.system);
  putFigure(map, "cpu-rate", cpu.rate);
  putFigure(map, "cpu-periods", cpu.periods);
  putFigure(map, "cpu-throttled-periods", cpu.throttledPeriods);
  putFigure(map, "cpu-throttled-nsec", cpu.throttledTime);
  putPressure(map, "cpu", cpu.pressure);
}

void putMemory(VariantMap& map, const stats::MemoryFigures& memory) {
  putFigure(map, "memory-usage", memory.usage);
  putFigure(map, "memory-working-set", memory.workingSet);
  putFigure(map, "memory-anonymous", memory.anonymous);
  putFigure(map, "memory-cache", memory.cache);
  putFigure(map, "memory-mapped-file", memory.mappedFile);
  putFigure(map, "memory-limit", memory.limit);
  putFigure(map, "memory-available", memory.available);
  putFigure(map, "memory-peak", memory.peak);
  putFigure(map, "memory-page-faults", memory.pageFaults);
  putFigure(map, "memory-major-page-faults", memory.majorPageFaults);
  putFigure(map, "memory-limit-hits", memory.limitHits);
  putFigure(map, "memory-oom-kills", memory.oomKills);
  putFigure(map, "swap-usage", memory.swap);
  putFigure(map, "swap-limit", memory.swapLimit);
  putPressure(map, "memory", memory.pressure);
}

void putIo(VariantMap& map, const stats::IoFigures& io) {
  putPressure(map, "io", io.pressure);
  if (!io.devices) return;
  stats::DeviceIo sum;
  for (const auto& device : *io.devices) {
    sum.readBytes += device.readBytes;
    sum.writtenBytes += device.writtenBytes;
    sum.reads += device.reads;
    sum.writes += device.writes;
  }
  putFigure(map, "io-read-bytes", sum.readBytes);
  putFigure(map, "io-written-bytes", sum.writtenBytes);
  putFigure(map, "io-reads", sum.reads);
  putFigure(map, "io-writes", sum.writes);
}

void putCgroup(VariantMap& map, const std::optional<stats::CgroupFigures>& cgroup) {
  if (!cgroup) return;
  putFigure(map, "timestamp", microsOf(cgroup->timestamp));
  putCpu(map, cgroup->cpu);
  putMemory(map, cgroup->memory);
  putIo(map, cgroup->io);
  putFigure(map, "tasks", cgroup->tasks);
  putFigure(map, "tasks-limit", cgroup->tasksLimit);
}

VariantMap interfaceMap(const stats::InterfaceFigures& interface) {
  VariantMap map;
  putFigure(map, "name", cleanText(interface.name));
  putFigure(map, "received-bytes", interface.receivedBytes);
  putFigure(map, "received-packets", interface.receivedPackets);
  putFigure(map, "receive-errors", interface.receiveErrors);
  putFigure(map, "receive-drops", interface.receiveDrops);
  putFigure(map, "sent-bytes", interface.sentBytes);
  putFigure(map, "sent-packets", interface.sentPackets);
  putFigure(map, "send-errors", interface.sendErrors);
  putFigure(map, "send-drops", interface.sendDrops);
  return map;
}

}  // namespace

VariantMap statsMap(const stats::ContainerFigures& figures) {
  VariantMap map;
  putCgroup(map, figures.cgroup);
  if (figures.layer) {
    putFigure(map, "layer-bytes", figures.layer->bytes);
    putFigure(map, "layer-inodes", figures.layer->inodes);
    putFigure(map, "layer-timestamp", microsOf(figures.layer->timestamp));
  }
  if (figures.processes) {
    putFigure(map, "processes", figures.processes->processes);
    putFigure(map, "threads", figures.processes->threads);
    putFigure(map, "descriptors", figures.processes->descriptors);
    putFigure(map, "sockets", figures.processes->sockets);
    putFigure(map, "descriptors-limit", figures.processes->softFileLimit);
  }
  return map;
}

VariantMap statsMap(const stats::PodFigures& figures) {
  VariantMap map;
  putCgroup(map, figures.cgroup);
  if (figures.interfaces.empty()) return map;
  std::vector<VariantMap> rows;
  for (const auto& interface : figures.interfaces) rows.push_back(interfaceMap(interface));
  putFigure(map, "interfaces", rows);
  putFigure(map, "network-timestamp", microsOf(figures.networkTimestamp));
  return map;
}

}  // namespace userpod::bus

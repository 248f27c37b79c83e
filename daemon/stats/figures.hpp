// What cgroups, network namespaces and writable layers say of containers and pods, as plain values. An absent figure is
// one that is not available here (its controller is not delegated, or the kernel does not tell); a zero is a true zero.
// facts: Documentation/admin-guide/cgroup-v2.rst, Documentation/accounting/psi.rst.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "daemon/store/model.hpp"

namespace userpod::stats {

using Figure = std::optional<std::uint64_t>;

// How long tasks waited for one resource.
struct Pressure {
  struct Share {
    std::uint64_t total = 0;                  // microseconds since the cgroup was made
    double avg10 = 0, avg60 = 0, avg300 = 0;  // percent of the last so many seconds
  };
  Share some;  // at least one task waited
  Share full;  // all of them
};

struct CpuFigures {
  Figure usage, user, system;                       // nanoseconds of all cores since the cgroup was made
  Figure rate;                                      // nanoseconds of processor time a second, of late
  Figure periods, throttledPeriods, throttledTime;  // of a quota; the time in nanoseconds
  std::optional<Pressure> pressure;
};

struct MemoryFigures {  // bytes, but for the counts
  Figure usage;
  Figure workingSet;  // usage without inactive file pages, which is what kubelet evicts by
  Figure anonymous, cache, mappedFile, kernel;
  Figure limit;      // absent: none
  Figure available;  // limit - workingSet, not below 0
  Figure peak;       // Detail::All
  Figure pageFaults, majorPageFaults;
  Figure limitHits, oomKills;  // Detail::All: how often usage was about to exceed the limit; processes killed
  Figure swap, swapLimit;
  std::optional<Pressure> pressure;
};

struct DeviceIo {
  std::uint32_t major = 0, minor = 0;
  std::uint64_t readBytes = 0, writtenBytes = 0, reads = 0, writes = 0;
};

struct IoFigures {
  std::optional<std::vector<DeviceIo>> devices;  // Detail::All; absent without the io controller
  std::optional<Pressure> pressure;
};

struct CgroupFigures {
  std::int64_t timestamp = 0;  // nanoseconds since the epoch, when they were read; above 0
  CpuFigures cpu;
  MemoryFigures memory;
  IoFigures io;
  Figure tasks;       // processes and their threads
  Figure tasksLimit;  // Detail::All; absent: none
};

struct InterfaceFigures {
  std::string name;
  std::uint64_t receivedBytes = 0, receivedPackets = 0, receiveErrors = 0, receiveDrops = 0;
  std::uint64_t sentBytes = 0, sentPackets = 0, sendErrors = 0, sendDrops = 0;
};

struct LayerFigures {
  std::int64_t timestamp = 0;  // when the scan of it ended, nanoseconds since the epoch
  std::uint64_t bytes = 0;     // on disk, as du counts: a file of several links once
  std::uint64_t inodes = 0;
};

// The file system that a writable layer is on.
struct FilesystemFigures {
  std::uint64_t bytes = 0, inodes = 0, freeInodes = 0;
};

// Of a container's processes, Detail::All.
struct ProcessFigures {
  Figure processes, threads;
  Figure descriptors, sockets;  // open
  Figure softFileLimit;         // RLIMIT_NOFILE of its first process
};

struct ContainerFigures {
  std::shared_ptr<const ContainerRecord> container;
  std::optional<CgroupFigures> cgroup;  // absent: it has ended
  std::optional<LayerFigures> layer;    // of its writable layer; absent: not scanned yet
  std::optional<ProcessFigures> processes;
  std::optional<FilesystemFigures> filesystem = std::nullopt;  // Detail::All
};

struct PodFigures {
  std::shared_ptr<const PodRecord> pod;
  std::optional<CgroupFigures> cgroup;
  std::int64_t networkTimestamp = 0;         // nanoseconds since the epoch
  std::vector<InterfaceFigures> interfaces;  // of its own network, without lo, "eth0" first; none on the node's network
  std::vector<ContainerFigures> containers;  // that run
};

// What is worth a read: Usual is what kubelet polls for.
enum class Detail { Usual, All };

}  // namespace userpod::stats

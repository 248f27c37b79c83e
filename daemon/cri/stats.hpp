// Figures as the contract shows them. Pure functions. What the figures lack is absent in the message too.
#pragma once

#include <string>

#include "api.pb.h"
#include "daemon/stats/figures.hpp"

namespace userpod::cri {

namespace v1 = ::runtime::v1;

// Visible, all conditions of the filter hold, and it runs; one that is asked for by its id need not run.
bool matches(const v1::ContainerStatsFilter& filter, const ContainerRecord& container);
// Alike; a pod that runs is one that is ready.
bool matches(const v1::PodSandboxStatsFilter& filter, const PodRecord& pod);

// layers: the directory that holds the writable layers, as kubelet finds it: it looks up the file system there.
void fillStats(const stats::ContainerFigures& figures, const std::string& layers, v1::ContainerStats* message);
void fillStats(const stats::PodFigures& figures, const std::string& layers, v1::PodSandboxStats* message);

}  // namespace userpod::cri

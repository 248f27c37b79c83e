// What GetStats answers: figures as dictionaries of the bus. Their keys stand in the XML of each interface; a figure
// that is not available has no key.
#pragma once

#include "daemon/stats/figures.hpp"
#include "dbus/compat.hpp"

namespace userpod::bus {

// Any thread.
VariantMap statsMap(const stats::ContainerFigures& figures);
VariantMap statsMap(const stats::PodFigures& figures);  // of the pod as a whole

}  // namespace userpod::bus

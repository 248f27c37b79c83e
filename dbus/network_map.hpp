// What GetNetwork answers: the network as a dictionary of the bus. Its keys stand in org.userpod1.Manager.xml.
#pragma once

#include "daemon/core/core.hpp"
#include "dbus/compat.hpp"

namespace userpod::bus {

// Any thread. Texts that came from outside are made UTF-8.
VariantMap networkMap(const network::NetworkView& view, const core::Snapshot& snapshot, bool hostLoopback);

}  // namespace userpod::bus

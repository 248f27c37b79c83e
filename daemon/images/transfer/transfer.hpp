// The half of a pull that talks to registries: one order, then the blobs that the daemon asks for.
#pragma once

#include "daemon/images/transfer/channel.hpp"
#include "daemon/sys/error.hpp"

namespace userpod::images {

// Serves the daemon at the other end of the channel until it closes. Blobs are fetched in threads, as many as are asked
// for at once. Looks up the user's credentials first, then confines the process: see confine_transfer.hpp. data:
// userpod's data directory. An error: the channel itself has failed.
Status serveTransfer(Channel& channel, const std::string& data);

}  // namespace userpod::images

#include "daemon/network/ports/privileges.hpp"

#include <linux/capability.h>

#include "daemon/sys/privileges.hpp"

namespace userpod::ports {

Status keepNetworkCapabilities() {
  return keepCapabilities(1U << CAP_NET_ADMIN | 1U << CAP_NET_RAW | 1U << CAP_NET_BIND_SERVICE);
}

Status dropCapabilities() {
  return keepCapabilities(0);
}

}  // namespace userpod::ports

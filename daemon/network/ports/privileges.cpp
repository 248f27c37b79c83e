#include "daemon/network/ports/privileges.hpp"

#include <linux/capability.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <array>

namespace userpod::ports {
namespace {

// capset(2) itself is of one thread, and libcap another library.
Status setCapabilities(std::uint32_t set) {
  __user_cap_header_struct header{_LINUX_CAPABILITY_VERSION_3, 0};
  std::array<__user_cap_data_struct, 2> data{};
  data[0].effective = data[0].permitted = set;
  if (::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0) return sysError("give up privileges");
  if (::syscall(SYS_capset, &header, data.data()) < 0) return sysError("give up privileges");
  return {};
}

}  // namespace

Status keepNetworkCapabilities() {
  return setCapabilities(1U << CAP_NET_ADMIN | 1U << CAP_NET_RAW | 1U << CAP_NET_BIND_SERVICE);
}

Status dropCapabilities() {
  return setCapabilities(0);
}

}  // namespace userpod::ports

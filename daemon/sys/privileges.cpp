#include "daemon/sys/privileges.hpp"

#include <linux/capability.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <array>

namespace userpod {

// capset(2) itself is of one thread, and libcap another library.
Status keepCapabilities(std::uint64_t set) {
  __user_cap_header_struct header{_LINUX_CAPABILITY_VERSION_3, 0};
  std::array<__user_cap_data_struct, 2> data{};
  for (unsigned word = 0; word < data.size(); ++word)
    data[word].effective = data[word].permitted = static_cast<std::uint32_t>(set >> (32 * word));
  if (::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0) return sysError("give up privileges");
  if (::syscall(SYS_capset, &header, data.data()) < 0) return sysError("give up privileges");
  return {};
}

}  // namespace userpod

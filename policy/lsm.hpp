// The security modules of the host's kernel, as far as an unprivileged user has a say in them.
// facts: apparmor(7), aa_change_profile(2), selinux(8), proc(5) attr/.
#pragma once

#include <string>

#include "daemon/sys/error.hpp"

namespace userpod::policy {

// A class, so that tests can have another host. Any thread.
class SecurityModules {
 public:
  virtual ~SecurityModules() = default;
  virtual bool hasAppArmor() const = 0;
  virtual bool hasSelinux() const = 0;  // with a policy loaded
  // Whether a process of this user may begin a program under this AppArmor profile, tried in a thread that ends at
  // once. NotSupported: no such profile is loaded, which only root can do; AccessDenied: it is not for this user.
  virtual Status tryAppArmor(const std::string& profile) const = 0;
  // Labels the whole tree but for links, which are not followed either; what has the label already is not touched.
  // AccessDenied names the file that is another user's, or that the policy refuses.
  virtual Status relabel(const std::string& path, const std::string& label) const = 0;
};

const SecurityModules& hostSecurityModules();

}  // namespace userpod::policy

// The bare part of a pod: what RunPodSandbox cannot do without, and nothing else.
#pragma once

#include <memory>
#include <mutex>
#include <string>

#include "daemon/sys/netlink.hpp"
#include "userns/node.hpp"

namespace userpod::bench {

// Namespaces pinned on a tmpfs of its own, on a bridge of its own in the node's network. Any thread.
class BareSandboxes {
 public:
  // Makes bridge and tmpfs; both must not be there yet.
  static Result<std::unique_ptr<BareSandboxes>> open(const NodeInside& node, std::string directory);

  // A thread unshares net, IPC and UTS and pins them; a veth joins the bridge, an IPv4 and an IPv6 address and their
  // default routes are set by netlink. number: below 60000, not used before in this run.
  Status make(unsigned number);
  // "net", "ipc", "uts"
  std::string pin(unsigned number, const std::string& name) const;
  std::string address(unsigned number) const;  // its IPv4 one
  // The kernel takes the veth away with the namespace, later. To delete it by name would block for 24 ms.
  Status drop(unsigned number) const;

 private:
  BareSandboxes(Netlink node, std::string directory);
  Status makeBridge();
  Status makeInThread(unsigned number);

  std::mutex mutex_;
  Netlink node_;  // guarded by mutex_; the kernel makes one link after the other anyway
  const std::string directory_;
  const bool ipv6_;
  unsigned bridge_ = 0;
};

// Removes the bridge if there is one, also that of a run that was killed. The tmpfs is the caller's to unmount.
Status removeBareBridge(const NodeInside& node);

}  // namespace userpod::bench

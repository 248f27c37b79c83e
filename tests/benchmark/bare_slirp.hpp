// slirp4netns with a forwarded port of its own: what host ports would be without userpod-ports.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "daemon/sys/child.hpp"
#include "userns/node.hpp"

namespace userpod::bench {

class SlirpForward {
 public:
  // On 127.0.0.1 of the host, to that port of a network namespace, which gets a tap of its own. directory: for its
  // control socket.
  static Result<std::unique_ptr<SlirpForward>> start(const NodeInside& node, const std::string& networkNamespace,
                                                     const std::string& directory, std::uint16_t port);
  std::uint16_t port() const { return port_; }

 private:
  SlirpForward() = default;

  Child child_;
  UniqueFd exit_;
  std::uint16_t port_ = 0;
};

}  // namespace userpod::bench

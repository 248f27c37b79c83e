// What both sides of the socket agree on.
#pragma once

#include <cstddef>

namespace userpod::cri {

// One message, either way: what kubelet, crictl and critest accept.
constexpr std::size_t kMaxMessage = std::size_t{16} * 1024 * 1024;

}  // namespace userpod::cri

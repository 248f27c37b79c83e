// How a remote command ended, as clients of Kubernetes read it from the error stream.
#pragma once

#include <cstdint>
#include <string>

#include "daemon/sys/error.hpp"

namespace userpod::streaming {

// Format of the sub-protocols from v4.channel.k8s.io on: a metav1.Status as JSON. Before: a sentence, or nothing for a
// success.
enum class StatusFormat { Text, Json };

// An exit code, or why there is none.
std::string statusText(const Result<std::int32_t>& ended, StatusFormat format);

}  // namespace userpod::streaming

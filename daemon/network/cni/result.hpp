// What plugins print. Pure; any thread.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "daemon/network/cni/json.hpp"

namespace userpod::network::cni {

// The result of ADD in any version of the specification, with its cniVersion: `version` when it has none.
// ConfigInvalid names the key that is not as it should be.
Result<Json> parseResult(std::string_view out, const std::string& version, const JsonLimits& limits = kForeignJson);
// Addresses that it gives to this interface of the pod, without prefix lengths, the first IPv4 one ahead; of every
// interface of the pod when this one has none. `result` is parseResult's.
std::vector<std::string> addressesIn(const Json& result, const std::string& interface);

// Codes that the specification gives a meaning. From 100 on they are the plugin's own.
inline constexpr std::int64_t kTryAgainLater = 11;
inline constexpr std::int64_t kFirstOwnCode = 100;

struct PluginError {
  std::int64_t code = 0;
  std::string message;
  std::string details;
  std::string text() const;  // "message; details (code 7)", for people
};
// Nothing where the output is no error of the specification.
std::optional<PluginError> parsePluginError(std::string_view out);

// Answer to VERSION: the versions that the plugin speaks. Nothing where it is none.
std::vector<std::string> parseVersions(std::string_view out);

}  // namespace userpod::network::cni

// Docker's image manifest version 2, schema 1, which registries of old images still serve: it names layers and a
// history, and has no config. facts: distribution's manifest-v2-1 document.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <string_view>

#include "daemon/images/manifest.hpp"

namespace userpod::images {

// Layers that the history calls empty are left out.
Result<Manifest> parseSchema1(const nlohmann::json& object);
// The bytes that are signed, and whose digest names the manifest; nullopt when it has no signatures.
std::optional<std::string> schema1Payload(std::string_view document);

}  // namespace userpod::images

// What must be so of the places that any name leads to, by any configuration.
#pragma once

#include <algorithm>

#include "daemon/images/registries/registries.hpp"
#include "daemon/sys/util.hpp"
#include "tests/fuzz/fuzz.hpp"

namespace userpod::fuzz {

inline void checkMessage(const Error& error) {
  require(error.text().size() < 2000 && isUtf8(error.text()), "the message is short and UTF-8");
}

inline void checkComplete(const images::Reference& name) {
  require(!name.host.empty() && !name.path.empty(), "a complete name has a host and a path");
  require(name.tag.empty() != name.digest.empty(), "a complete name has either a tag or a digest");
  auto text = name.digest.empty() ? name.tagged() : name.digested(name.digest);
  auto again = images::parseReference(text);
  // Docker Hub's "library/" may have made it longer than names may be.
  if (!again) return require(text.size() > 255, "a complete name parses");
  require(
      again->host == name.host && again->path == name.path && again->tag == name.tag && again->digest == name.digest,
      "a complete name parses to itself");
}

inline void checkEndpoint(const images::Endpoint& place) {
  require(place.path.find("..") == std::string::npos, "a path leads nowhere else");
  auto text = place.host + "/" + place.path;
  auto parsed = images::parseReference(text);
  if (!parsed) return require(text.size() > 255, "an endpoint parses");
  require(parsed->host == place.host && parsed->path == place.path, "an endpoint parses to itself");
}

inline void checkCandidates(const images::Registries& registries, const images::Reference& reference) {
  auto names = registries.names(reference);
  for (const auto& name : names) checkComplete(name);
  auto candidates = registries.candidates(reference);
  if (!candidates) {
    auto code = candidates.error().code();
    require(code == Code::RegistryDenied || code == Code::InvalidArgument || code == Code::ConfigInvalid,
            "what refuses a name is its registry, the name or the configuration");
    return checkMessage(candidates.error());
  }
  require(!candidates->empty() && candidates->size() <= 64, "there is a candidate, and not too many");
  for (const auto& candidate : *candidates) {
    checkComplete(candidate.name);
    require(std::any_of(names.begin(), names.end(),
                        [&](const auto& name) {
                          return name.host == candidate.name.host && name.path == candidate.name.path &&
                                 name.tag == candidate.name.tag && name.digest == candidate.name.digest;
                        }),
            "what can be pulled can be found");
    require(candidate.name.digest == reference.digest, "no digest is lost");
    require(!candidate.endpoints.empty() && candidate.endpoints.size() <= 65, "there is an endpoint, and not too many");
    for (const auto& place : candidate.endpoints) {
      checkEndpoint(place);
      require(place.mirror || place.host == candidate.name.host, "other hosts do not get the caller's credentials");
    }
  }
}

}  // namespace userpod::fuzz

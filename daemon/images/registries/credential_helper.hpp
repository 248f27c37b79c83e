// Programs that keep credentials: docker-credential-NAME, by the protocol of docker-credential-helpers.
#pragma once

#include <string>
#include <string_view>

#include "daemon/images/registries/access.hpp"
#include "daemon/images/registries/places.hpp"
#include "daemon/sys/error.hpp"

namespace userpod::images {

// What follows docker-credential- in a program's name: letters, digits, '.', '_' and '-', no path.
bool isHelperName(std::string_view name);

// What `docker-credential-NAME get` answers for a host, Docker Hub's also asked for as Docker itself does. Empty: it
// has none. `origin` says in errors who asks for the helper: HelperMissing (no such program in places.path),
// RegistryDenied (it failed, in its own words, or did not answer in 30 s). Blocks; any thread.
Result<Credentials> askHelper(const Places& places, const std::string& name, const std::string& host,
                              const std::string& origin);

}  // namespace userpod::images

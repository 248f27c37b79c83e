// The text of auth.json, Docker's config.json and the older .dockercfg: containers-auth.json(5). What it holds is
// secret: no error quotes it.
#pragma once

#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "daemon/images/registries/access.hpp"
#include "daemon/sys/error.hpp"

namespace userpod::images {

struct AuthFile {
  std::string file;
  // By host[/namespace...], the host as references have it.
  std::map<std::string, Credentials, std::less<>> entries;
  std::map<std::string, std::string, std::less<>> faults;   // of entries that cannot be used: why
  std::map<std::string, std::string, std::less<>> helpers;  // names of credential helpers
  std::string store;                                        // the helper of everything else; empty: none
};

enum class AuthFormat : std::uint8_t { Containers, DockerCfg };  // DockerCfg: the entries alone, without "auths"

// ConfigInvalid: "FILE:LINE: ..." where it is not JSON, "FILE: key: ..." where it is not as it should be.
Result<AuthFile> parseAuthFile(std::string_view text, const std::string& file, AuthFormat format);

// host/path and each namespace above it, the host last.
std::vector<std::string> authKeys(const std::string& host, const std::string& path);

// The files that are there, in the order in which they count; of each, ConfigInvalid when it cannot be read, belongs to
// somebody else or may be written by others.
std::vector<Result<AuthFile>> readAuthFiles(const Places& places);

}  // namespace userpod::images

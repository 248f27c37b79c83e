// The text of registries.conf (version 2), its drop-ins and short-name-aliases.conf: read, checked, merged. Pure
// functions of untrusted text; containers-registries.conf(5) says what the keys mean.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "daemon/images/reference.hpp"
#include "daemon/images/registries/registries.hpp"
#include "daemon/sys/error.hpp"

namespace userpod::images {

// Among credential-helpers: auth.json and the like, where it says nothing else.
inline constexpr const char* kAuthFilesHelper = "containers-auth.json";

enum class PullFromMirror : std::uint8_t { All, DigestOnly, TagOnly };

struct MirrorTable {
  std::string location;  // host[:port][/path], no slash at its end
  bool insecure = false;
  PullFromMirror use = PullFromMirror::All;  // mirror-by-digest-only of the registry is DigestOnly of each mirror
};

struct RegistryTable {
  std::string prefix;    // host[:port][/path[:tag|@digest]], the host in lower case, or "*.domain"
  std::string location;  // host[:port][/path]; empty: the name as it is
  bool insecure = false;
  bool blocked = false;
  std::vector<MirrorTable> mirrors;
  std::string origin;  // "FILE:LINE" of the table
};

struct Alias {
  Reference name;  // host and path only; an empty host: no alias, whatever was read before says
  std::string origin;
};

enum class ShortNameMode : std::uint8_t { Permissive, Enforcing, Disabled };

// What files say; nullopt: nothing.
struct RegistriesConf {
  std::vector<RegistryTable> registries;  // no prefix twice
  std::optional<std::vector<std::string>> searchRegistries;
  std::string searchOrigin;
  std::optional<ShortNameMode> shortNameMode;
  std::string shortNameModeOrigin;
  std::optional<std::vector<std::string>> credentialHelpers;
  std::map<std::string, Alias, std::less<>> aliases;  // by short name, without tag and digest
  std::vector<std::string> warnings;
};

enum class ConfKind : std::uint8_t { Registries, Aliases };  // Aliases: short-name-aliases.conf, only [aliases]

// ConfigInvalid: "FILE:LINE: key: what; mend". At most 1 MiB is read of a file, 4096 registries, 64 mirrors of each, 64
// search registries and 16384 aliases: more is an error.
Result<RegistriesConf> parseRegistriesConf(std::string_view text, const std::string& file, ConfKind kind);

// What was read later replaces: registries by prefix and aliases by name, everything else as a whole.
void mergeRegistriesConf(RegistriesConf& into, RegistriesConf&& over);

std::shared_ptr<const Registries> makeRegistries(RegistriesConf conf);

// The table with the longest prefix that a name (host, path, and tag or digest) begins with; `length` is that of the
// part of host/path that the prefix covers. nullptr: none.
struct PrefixMatch {
  const RegistryTable* table = nullptr;
  std::size_t length = 0;
};
PrefixMatch matchPrefix(const std::vector<RegistryTable>& tables, const Reference& name);

// "docker.io" for Docker Hub's other name in references, lower case for everything.
std::string canonicalHost(std::string_view host);

// A short name, completed: by its alias, or by each search registry in turn. Errors as Registries::candidates().
Result<std::vector<Reference>> resolveShortName(const RegistriesConf& conf, const Reference& name);
// Where a short name may be found, whatever the mode.
std::vector<Reference> shortNameCandidates(const RegistriesConf& conf, const Reference& name);
// With "latest" for a name that has neither tag nor digest, and without the tag beside a digest.
Reference completed(Reference name);

}  // namespace userpod::images
